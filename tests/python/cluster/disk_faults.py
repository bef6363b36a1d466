"""What goes wrong with disks, one function a kind, and what the node whose disk it is must do then.

A3 where it is full, D3 where a sync fails, D1 where the power is cut.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cluster import pauses
from cluster.lab import Lab
from cluster.parts import SUBMIT_S, connect
from cluster.steps import (
    GOES_ON,
    NotApplied,
    a_follower,
    back,
    goes_on,
    still_leads,
    until,
    until_alarmed,
    until_caught_up,
    until_quiet,
)
from raftwork import _core
from raftwork.errors import DiskFull, NotCommitted, OutcomeUnknown, Overloaded, SessionExpired
from raftwork.storage.records import result_succeeded

SLOW_SYNC_MS = 200
FULL = "the disk is full"
ARCHIVE_STOPPED = "the archive stopped"
LOG_STOPPED = re.compile(r"the log stops: sync failed on \S*/wal/(w-[0-9a-f]{16}\.seg): Input/output error")
RESULT_BYTES = 250 << 10
RESULTS = 8
PUSHES_MAX = 200
"""Of two megabytes each: the files that the log had ready hold fewer, however often one is removed meanwhile."""


def slow_disk(lab: Lab, chance: random.Random) -> None:
    """Each sync of a node takes 200 ms more."""
    number = chance.randrange(lab.nodes.count)
    page = lab.nodes.pages[number]
    before = page.slowed
    page.slow_syncs(SLOW_SYNC_MS)
    lab.now(pauses.STRUCK)
    goes_on(lab, GOES_ON * 2)
    until(lambda: page.slowed > before + 1, "a sync was slowed")
    page.slow_syncs(0)
    lab.now(pauses.HEALED)
    goes_on(lab)


# Full -----------------------------------------------------------------------------------------------------------------


def disk_full_of_leader(lab: Lab, chance: random.Random) -> None:
    """The leader's log finds no room (A3): it refuses writes by name and says why, and another node leads meanwhile."""
    leader = lab.nodes.who_leads()
    with _filled(lab, leader) as (filler, push):
        refused = _push_until(push, filler, lambda: None)
        if refused is None and not still_leads(lab, leader):
            raise NotApplied(f"node {leader} does not lead any more")
        assert refused is not None, "A3: the disk is full, and no write was refused"
        assert "Make room; the node goes on by itself." in str(refused), f"what to do is not said: {refused}"
        lab.nodes.who_leads(but=[leader])
        goes_on(lab, GOES_ON * 2)
        until_alarmed(lab, leader, FULL)
        health = lab.nodes.look(leader)
        assert health is not None, "with a full disk it still answers"
        assert not health["ready"], "what balances load must not choose it"
    until_quiet(lab, leader, FULL)
    until_caught_up(lab, leader)
    goes_on(lab)


def disk_full_of_follower(lab: Lab, chance: random.Random) -> None:
    """A follower's log finds no room (A3): it says so, the others go on, and it catches up when there is room."""
    follower = a_follower(lab, chance)
    with _filled(lab, follower) as (filler, push):
        _push_until(push, filler, lambda: _told_full(lab, follower))
        if still_leads(lab, follower):
            raise NotApplied(f"node {follower} leads by now")
        assert _told_full(lab, follower), "A3: its disk is full, and it does not say so"
        lab.now(pauses.STRUCK)
        goes_on(lab, GOES_ON * 2)
    until_quiet(lab, follower, FULL)
    until_caught_up(lab, follower)
    goes_on(lab)


def _told_full(lab: Lab, number: int) -> str | None:
    return next((alarm for alarm in lab.nodes.alarms(number) if alarm.startswith(FULL)), None)


@contextmanager
def _filled(lab: Lab, number: int) -> Iterator[tuple[Filler, Callable[[], None]]]:
    """The disk of a node is full meanwhile; and what writes to all logs and changes nothing."""
    client = connect(lab.nodes.clients, "client")
    try:
        filler = Filler(lab.nodes.disks[number].root / "filler")
        try:
            filler.fill()
            yield filler, lambda: _push(client)
        finally:
            filler.empty()
            lab.now(pauses.HEALED)
    finally:
        client.close(1.0)


class Filler:
    """A file that takes all room of a disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.bytes = 0

    def fill(self) -> None:
        """Take what is free: first in large pieces, then in ever smaller ones, as it is not all in one place."""
        for size in (1 << 26, 1 << 22, 1 << 16, 1 << 12):
            while self._grow(size):
                pass

    def _grow(self, size: int) -> bool:
        try:
            os.posix_fallocate(self.file, self.bytes, size)
        except OSError:
            return False
        self.bytes += size
        return True

    def empty(self) -> None:
        """Give all of it back."""
        os.close(self.file)
        self.path.unlink()


def _push(client: _core.Client) -> None:
    """Tells the end of runs that there never were: the log grows by two megabytes, and the state refuses each."""
    ids = _core.new_ids(RESULTS)
    results = [msgspec.Raw(result_succeeded(job, 1, os.urandom(RESULT_BYTES))) for job in ids]
    client.submit(msgspec.msgpack.encode((6, results)), SUBMIT_S)


def _push_until(push: Callable[[], None], filler: Filler, reached: Callable[[], object]) -> object:
    """Write until the log is refused its room, or something else is reached; gives that. None: neither came."""
    for _ in range(PUSHES_MAX):
        try:
            push()
        except DiskFull as refused:
            return reached() or refused
        except (NotCommitted, OutcomeUnknown, Overloaded, SessionExpired):
            pass  # It may wait for the very disk that is full.
        filler.fill()  # A file that the log gave up may have been removed meanwhile.
        if found := reached():
            return found
    return None


# Syncs ----------------------------------------------------------------------------------------------------------------


def failing_sync_of_leader(lab: Lab, chance: random.Random) -> None:
    """A sync of the leader's log fails (D3)."""
    leader = lab.nodes.who_leads()
    lab.now(pauses.LEADER_LOST)
    _fail_a_sync_of_the_log(lab, leader)


def failing_sync_of_follower(lab: Lab, chance: random.Random) -> None:
    """A sync of the log of a node fails that does not lead (D3)."""
    follower = a_follower(lab, chance)
    lab.now(pauses.STRUCK)
    _fail_a_sync_of_the_log(lab, follower)


def _fail_a_sync_of_the_log(lab: Lab, number: int) -> None:
    """It stops, says why, and never syncs that file again: what the kernel then said would be no proof.

    The directory is opened anew, by the same process or by the next one, and what was read is written to another file.
    """
    page, said, failed = lab.nodes.pages[number], lab.nodes.said(number), lab.nodes.pages[number].failed
    page.fail_syncs(1, of="/wal/w-")
    until(lambda: page.failed > failed, f"a sync of the log of node {number} failed")
    until(lambda: LOG_STOPPED.search(lab.nodes.log(number, said)), f"node {number} says that its log stops, and why")
    stopped = LOG_STOPPED.search(lab.nodes.log(number, said))
    assert stopped is not None
    goes_on(lab)
    until(
        lambda: _begun_anew(lab, number, stopped[1]),
        f"node {number} ended, or writes to another file than {stopped[1]}",
    )
    assert page.again == 0, f"D3: {stopped[1]} was synced again, {page.again} times, after a sync of it had failed"
    assert "the node stops: " in lab.nodes.log(number, said), "the node went on with a log that had stopped"
    if number in lab.nodes.running():
        until_caught_up(lab, number)
        lab.now(pauses.HEALED)
        goes_on(lab)
    else:
        back(lab, number)


def _begun_anew(lab: Lab, number: int, stopped: str) -> bool:
    """Whether the node ended by itself, or has another file of the log than the one that stopped, and answers."""
    if lab.nodes.ended(number) is not None:
        return True
    newest = max(path.name for path in (lab.nodes.data(number) / "wal").glob("w-*.seg"))
    health = lab.nodes.look(number)
    return newest > stopped and health is not None and health["role"] != "failed"


def failing_sync_of_archive(lab: Lab, chance: random.Random) -> None:
    """A sync of finished jobs fails. Nothing is archived until the node is started again, and nothing else stops."""
    number = chance.randrange(lab.nodes.count)
    page, failed = lab.nodes.pages[number], lab.nodes.pages[number].failed
    lab.now(pauses.STRUCK)
    page.fail_syncs(1, of="/archive/")
    until(lambda: page.failed > failed, f"a sync of the archive of node {number} failed")
    until_alarmed(lab, number, ARCHIVE_STOPPED)
    goes_on(lab)
    assert lab.nodes.ended(number) is None, "history is no reason to end"
    lab.nodes.kill(number)
    back(lab, number)


def dead_disk(lab: Lab, chance: random.Random) -> None:
    """A disk stops working under a running node: every access fails until the machine is started anew."""
    number = chance.randrange(lab.nodes.count)
    said = lab.nodes.said(number)
    lab.nodes.disks[number].shutdown()
    lab.now(pauses.STRUCK)
    goes_on(lab)
    until(lambda: "the node stops: " in lab.nodes.log(number, said), f"node {number} stops when its disk is dead")
    lab.nodes.kill(number)
    lab.nodes.disks[number].restore()
    back(lab, number)


# Power ----------------------------------------------------------------------------------------------------------------


def power_cut_one(lab: Lab, chance: random.Random) -> None:
    """The power of one node is cut."""
    _cut_power(lab, [chance.randrange(lab.nodes.count)])


def power_cut_leader(lab: Lab, chance: random.Random) -> None:
    """The power of the leader is cut."""
    _cut_power(lab, [lab.nodes.who_leads()])


def power_cut_minority(lab: Lab, chance: random.Random) -> None:
    """The power of as many nodes as may fail is cut at once."""
    _cut_power(lab, chance.sample(range(lab.nodes.count), lab.nodes.count // 2))


def power_cut_all(lab: Lab, chance: random.Random) -> None:
    """The power of all nodes is cut at once."""
    _cut_power(lab, list(range(lab.nodes.count)))


def _cut_power(lab: Lab, numbers: list[int]) -> None:
    """Stop the processes first: a sync under way must not tell that it was done while the file system dies."""
    majority = len(numbers) <= lab.nodes.count // 2
    struck = pauses.LEADER_LOST if majority and lab.nodes.who_leads() in numbers else pauses.STRUCK
    for number in numbers:
        lab.nodes.pause(number)
    if majority:
        lab.now(struck)
    for number in numbers:
        lab.nodes.disks[number].shutdown()
    lab.nodes.kill(*numbers)
    for number in numbers:
        lab.nodes.disks[number].restore()
    if majority:
        goes_on(lab)
    else:
        lab.now(pauses.RESTARTED)
    back(lab, *numbers)
