"""A member with an older copy of its data, when it matters: those that may lead lack what it had acknowledged (D5).

Whoever leads and the member whose data is rolled back have more entries than the third. Then the leader dies. If the
member voted, the third would lead without those entries.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from cluster.data_faults import FOUND_OUT, keep_copy, put_back
from cluster.lab import Lab, at, lab
from cluster.parts import SPEC, SUBMIT_S, connect, read
from cluster.steps import has_alarm, until, until_alarmed, until_caught_up, until_quiet
from raftwork import _core
from raftwork.storage.base import NewJob
from raftwork.storage.records import enqueue_command

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

ELECTION_S = 8.0
"""So long the leader goes on without a majority: meanwhile the copy is put back and its node started."""
ALARM = "this node votes for nobody"
WORDS_BYTES_MAX = 1_000
"""A packet with words of the leader is smaller, and one with the entries that the copy lacks is larger."""


def enqueued(it: Lab, count: int) -> list[bytes]:
    """Jobs that were acknowledged. What each says is large, so that nothing of it comes in a small packet."""
    client = connect(it.nodes.clients, "client")
    try:
        ids = _core.new_ids(count)
        for job in ids:
            client.submit(enqueue_command([NewJob(job, SPEC, msgspec.msgpack.encode(["x" * 20_000]))]), SUBMIT_S)
        return list(ids)
    finally:
        client.close(1.0)


def test_d5_a_member_with_an_older_copy_votes_for_nobody_who_lacks_what_it_acknowledged(tmp_path: Path) -> None:
    with lab(tmp_path, 3, {"RAFTWORK_ELECTION_TIMEOUT": f"{ELECTION_S:.0f}s"}) as it:
        leader = it.nodes.who_leads()
        copied, behind = (number for number in range(3) if number != leader)
        keep_copy(it, copied)
        it.nodes.start(copied)
        known = enqueued(it, 5)
        until_caught_up(it, copied)
        it.network.cut_off(behind)
        acknowledged = known + enqueued(it, 5)
        upto = it.nodes.all_health()[leader]["committed"]
        said = it.nodes.said(copied)
        put_back(it, copied)
        it.network.hold_back(copied, [leader], WORDS_BYTES_MAX)
        it.nodes.launch(copied)
        until_alarmed(it, copied, ALARM)
        until(lambda: FOUND_OUT.search(it.nodes.log(copied, said)) is not None, "it says why")
        until(lambda: it.network.dropped(copied) > 0, "what it lacks is held back")

        # Else its kernel would go on to send what the process had written, after its end.
        it.network.cut_off(leader)
        it.nodes.kill(leader)
        it.network.heal(copied)
        it.network.heal(behind)
        health = it.nodes.look(behind)
        assert health is not None, "it does not answer"
        assert health["index"] < upto, "it has what was acknowledged, and may lead"
        roles = set()
        watched = time.monotonic() + 3 * ELECTION_S
        while time.monotonic() < watched:
            now = {number: health["role"] for number, health in it.nodes.all_health().items()}
            assert "leader" not in now.values(), f"D5: without what node {copied} had acknowledged: {now}"
            roles.add(now[behind])
            time.sleep(0.1)
        assert "candidate" in roles, "nobody asked for a vote"
        assert has_alarm(it, copied, ALARM), "it trusts its log, which lacks entries"

        it.network.heal(leader)
        it.nodes.launch(leader)
        until(lambda: it.nodes.who_leads() == leader, "the only node that has all leads again")
        until_quiet(it, copied, ALARM)
        for number in range(3):
            until_caught_up(it, number)
            with at(it, number) as client:
                lacking = [job for job in acknowledged if read(client, 3, job, consistency="local")[1] is None]
                assert not lacking, f"D1: node {number} lacks {len(lacking)} of {len(acknowledged)} jobs"
