"""Recurring schedules as operators and programs see them: `app.schedules`.

A schedule is stored in the cluster with its task's name and arguments. Any worker of the storage fires it, also one
that does not know the task; whoever runs the jobs must.
"""

from __future__ import annotations

import asyncio
import builtins
import difflib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, Unpack, get_args

from raftwork import clock, cron, descriptions, options, serde
from raftwork.cron import Definition, When
from raftwork.durations import Duration, instant_ms
from raftwork.errors import InvalidName, InvalidOption, InvalidTask, RaftworkError, ScheduleNotFound
from raftwork.job import Job, JobDoor
from raftwork.storage.base import PutAnswer, ScheduleRow, Storage
from raftwork.task import Signature, Task

__all__ = ["Overlap", "Planned", "Schedule", "Schedules", "define"]

Overlap: TypeAlias = Literal["allow", "skip", "queue_one", "replace"]
"""What becomes of a job whose schedule has an earlier one that has not ended."""

GUESSED_MAX: Final = 1_000
"""Names that one which is not there is compared with: it takes time."""
NAME_BYTES_MAX: Final = 200
BACKFILL_MAX: Final = 1_000
"""Jobs of one backfill."""
_OVERLAPS: Final = get_args(Overlap)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One recurring schedule at one moment."""

    name: str
    definition: Definition | None
    """When it fires. None: this process cannot read it, as a newer version put it, or lacks its time zone."""
    function: str
    queue: str
    overlap: Overlap
    source: str
    """`code` if a decorator defines it, `api` if it was put."""
    generation: int
    paused: bool
    reason: str
    next_at: datetime | None
    """Its next slot, also while it is paused. None: it has ended."""
    last_slot: datetime | None
    last_job: uuid.UUID | None
    """The newest job of its slots, not one that was triggered or made by a backfill."""
    fired: int
    """Jobs that it has stored."""
    skipped: int
    """Jobs that it has not, because of an earlier one."""
    packed_args: bytes

    @classmethod
    def of(cls, row: ScheduleRow) -> Schedule:
        """From the storage's row."""
        return cls(
            name=row.name,
            definition=_readable(row.definition),
            function=row.function,
            queue=row.queue,
            overlap=_OVERLAPS[row.overlap],
            source=row.source,
            generation=row.generation,
            paused=row.paused is not None,
            reason=row.paused or "",
            next_at=None if row.next_ms is None else clock.from_ms(row.next_ms),
            last_slot=None if row.last_slot_ms is None else clock.from_ms(row.last_slot_ms),
            last_job=None if row.last_job is None else uuid.UUID(bytes=row.last_job),
            fired=row.fired,
            skipped=row.skipped,
            packed_args=row.args,
        )

    @property
    def call(self) -> str:
        """The call as text, such as `report('daily')`."""
        return f"{self.function.rpartition('.')[2]}({descriptions.describe_args(self.packed_args)})"


class Planned:
    """A schedule that is checked and not stored yet."""

    __slots__ = ("call", "definition", "name", "overlap")

    def __init__(self, name: str | None, call: Any, overlap: Overlap, definition: Definition) -> None:
        self.call = _call_of(call)
        self.name = check_name(self.call.task.name if name is None else name)
        if overlap not in _OVERLAPS:
            raise InvalidOption(f"overlap={overlap!r} is unknown. Use one of {', '.join(_OVERLAPS)}.")
        self.overlap = overlap
        self.definition = definition

    def put(self, storage: Storage, now_ms: int, generation: int | None = None) -> PutAnswer:
        """Store it."""
        task = self.call.task
        plan = task.plan()
        if task.codecs.encrypts and (self.call.args or self.call.kwargs):
            raise InvalidOption(
                f"The schedule {self.name!r} has arguments, and this application encrypts: a schedule stores them in "
                "clear. Let the task look up what it needs, or enqueue the encrypted job from a task without arguments."
            )
        return storage.put_schedule(
            self.name,
            plan.spec,
            serde.encode_args(self.call.args, self.call.kwargs, task.name),
            self.definition.pack(),
            self.definition.next(now_ms),
            overlap=_OVERLAPS.index(self.overlap),
            generation=generation,
            limits=None if plan.limits is None else plan.limits(self.call.args, self.call.kwargs),
        )


class Schedules:
    """The recurring schedules of an application's storage. Each verb has a twin with `a` in front for event loops."""

    __slots__ = ("_app", "_defined", "_orphaned", "_storage")

    def __init__(
        self,
        app: JobDoor,
        storage: Callable[[], Storage],
        defined: Callable[[Storage], builtins.list[str]],
        orphaned: Callable[[Storage], builtins.list[ScheduleRow]],
    ) -> None:
        self._app = app
        self._storage = storage
        self._defined = defined
        self._orphaned = orphaned

    def put(
        self,
        name: str,
        call: Task[..., Any] | Signature[Any],
        cron: str | None = None,
        *,
        every: Duration | None = None,
        overlap: Overlap = "allow",
        **when: Unpack[When],
    ) -> Schedule:
        """Store a schedule, or put it in place of the one of this name; whether it is paused stays.

        Putting what is stored already changes nothing: the next slot stays as well.

        Args:
            name: of the schedule, up to 200 bytes.
            call: a task without arguments, or `task.s(...)` with those of every job.
            cron, every, when: when it fires, see `raftwork.cron.define`.
            overlap: what becomes of a job while an earlier one of the schedule has not ended: `"allow"` stores it,
                `"skip"` does not, `"queue_one"` does not while one waits, `"replace"` cancels the earlier one.

        Raises:
            InvalidOption: the definition or an option is wrong, or it has arguments and the application encrypts.
            Overloaded: there are 100,000 already.

        Example:
            >>> app.schedules.put("nightly", report.s("sales"), cron="30 3 * * *", tz="Europe/Berlin")
        """
        planned = Planned(name, call, overlap, define(cron, every, when))
        storage = self._storage()
        planned.put(storage, storage.now_ms())
        return self.get(name)

    def put_defined(self) -> builtins.list[str]:
        """Store the schedules that `@app.cron` and `@app.every` define, as each worker does when it starts.

        Answers the names of those that newer code defines, which stayed as they were.
        """
        return self._defined(self._storage())

    def orphaned(self) -> builtins.list[Schedule]:
        """Schedules that code has stored and that the code of this application no longer defines, by name.

        They go on firing until somebody deletes them. Only those whose task is registered here, or was in a module that
        has others; and none that newer code has stored, as in a rolling deployment. A worker that starts says so in
        its log and with the event `schedule.orphaned`.
        """
        return [Schedule.of(row) for row in self._orphaned(self._storage())]

    def list(self) -> builtins.list[Schedule]:
        """All schedules, by name."""
        return [Schedule.of(row) for row in self._storage().schedules()]

    def get(self, name: str) -> Schedule:
        """One schedule.

        Raises:
            ScheduleNotFound: there is none of this name.
        """
        return Schedule.of(self._row(name))

    def pause(self, name: str, reason: str = "") -> None:
        """Fire no more until `resume`. Jobs that are stored already go on.

        Raises:
            ScheduleNotFound: there is none of this name.
        """
        self._found(self._storage().pause_schedule(name, reason), name)

    def resume(self, name: str) -> None:
        """Fire again, from the next slot on: those that passed while it was paused were not missed. See `backfill`.

        Raises:
            ScheduleNotFound: there is none of this name.
            InvalidOption: this process cannot read its definition.
        """
        storage = self._storage()
        while (row := self._row(name)).paused is not None and row.next_ms is not None:
            now = storage.now_ms()
            if row.next_ms > now:
                break
            following = Definition.unpack(row.definition).next(now)
            if storage.move_schedule(name, row.generation, row.next_ms, following):
                break
        self._found(storage.resume_schedule(name), name)

    def trigger(self, name: str) -> Job[Any]:
        """Store one job of a schedule now, beside its slots: also while it is paused, whatever `overlap` says.

        Raises:
            ScheduleNotFound: there is none of this name.
        """
        storage = self._storage()
        id = storage.new_ids(1)[0]
        self._found(storage.trigger_schedule(name, id), name)
        return Job(self._app, id)

    def delete(self, name: str) -> None:
        """Forget a schedule. Its jobs stay; one that code defines is back when the next worker starts.

        Raises:
            ScheduleNotFound: there is none of this name.
        """
        self._found(self._storage().delete_schedule(name), name)

    def preview(
        self,
        name: str | None = None,
        /,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        n: int = 10,
        **when: Unpack[When],
    ) -> builtins.list[datetime]:
        """The next slots of a schedule, or of a definition that is not stored.

        Raises:
            ScheduleNotFound: there is none of this name.
            InvalidOption: the definition is wrong.

        Example:
            >>> app.schedules.preview(cron="0 9 * * MON-FRI", tz="Europe/Paris", n=3)
        """
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= BACKFILL_MAX:
            raise InvalidOption(f"n={n!r} is not a whole number from 1 to {BACKFILL_MAX:,}.")
        if name is None:
            return [clock.from_ms(slot) for slot in define(cron, every, when).slots(clock.now_ms(), None, n)]
        if cron is not None or every is not None or when:
            raise InvalidOption(
                f"The definition of {name!r} is stored. Preview either it, or another one without a name."
            )
        row = self._row(name)
        if row.next_ms is None:
            return []
        following = Definition.unpack(row.definition).slots(row.next_ms, None, n - 1)
        return [clock.from_ms(slot) for slot in (row.next_ms, *following)]

    def backfill(self, name: str, start: datetime, end: datetime) -> builtins.list[Job[Any]]:
        """Store one job for each past slot from `start` on and before `end`, oldest first, whatever `overlap` says.

        Each job has its slot. The id of a job follows from the name and the slot, so a slot whose job is kept, from its
        own time or from another backfill, gets no other one, also if several run at once or one was interrupted. A slot
        whose job was deleted, or is past its retention, gets one. Answers the jobs that were missing.

        Raises:
            ScheduleNotFound: there is none of this name.
            InvalidOption: these are more than 1,000 slots, or this process cannot read the definition.
            StorageError: not all members of the cluster know slots of backfills, see `raftwork cluster finalize`.
        """
        first, last = instant_ms(start, "start"), instant_ms(end, "end")
        storage = self._storage()
        definition = Definition.unpack(self._row(name).definition)
        slots = definition.slots(first - 1, min(last - 1, storage.now_ms()), BACKFILL_MAX + 1)
        if len(slots) > BACKFILL_MAX:
            raise InvalidOption(
                f"{name!r} has more than {BACKFILL_MAX:,} slots from {start} to {end}. Backfill them in several parts."
            )
        ids = {cron.job_id(name, slot): slot for slot in slots}
        # The machine knows the ids of jobs in memory only, and these are looked for in the archive too.
        missing = [id for id in ids if storage.job(id) is None]
        for id in missing:
            self._found(storage.trigger_schedule(name, id, ids[id]), name)
        return [Job(self._app, id) for id in missing]

    async def aput(
        self,
        name: str,
        call: Task[..., Any] | Signature[Any],
        cron: str | None = None,
        *,
        every: Duration | None = None,
        overlap: Overlap = "allow",
        **when: Unpack[When],
    ) -> Schedule:
        """`put` for a running event loop."""
        return await asyncio.to_thread(self.put, name, call, cron, every=every, overlap=overlap, **when)

    async def aput_defined(self) -> builtins.list[str]:
        """`put_defined` for a running event loop."""
        return await asyncio.to_thread(self.put_defined)

    async def aorphaned(self) -> builtins.list[Schedule]:
        """`orphaned` for a running event loop."""
        return await asyncio.to_thread(self.orphaned)

    async def alist(self) -> builtins.list[Schedule]:
        """`list` for a running event loop."""
        return await asyncio.to_thread(self.list)

    async def aget(self, name: str) -> Schedule:
        """`get` for a running event loop."""
        return await asyncio.to_thread(self.get, name)

    async def apause(self, name: str, reason: str = "") -> None:
        """`pause` for a running event loop."""
        await asyncio.to_thread(self.pause, name, reason)

    async def aresume(self, name: str) -> None:
        """`resume` for a running event loop."""
        await asyncio.to_thread(self.resume, name)

    async def atrigger(self, name: str) -> Job[Any]:
        """`trigger` for a running event loop."""
        return await asyncio.to_thread(self.trigger, name)

    async def adelete(self, name: str) -> None:
        """`delete` for a running event loop."""
        await asyncio.to_thread(self.delete, name)

    async def apreview(
        self,
        name: str | None = None,
        /,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        n: int = 10,
        **when: Unpack[When],
    ) -> builtins.list[datetime]:
        """`preview` for a running event loop."""
        return await asyncio.to_thread(self.preview, name, cron=cron, every=every, n=n, **when)

    async def abackfill(self, name: str, start: datetime, end: datetime) -> builtins.list[Job[Any]]:
        """`backfill` for a running event loop."""
        return await asyncio.to_thread(self.backfill, name, start, end)

    def _row(self, name: str) -> ScheduleRow:
        row = self._storage().schedule(name)
        if row is None:
            raise self._unknown(name)
        return row

    def _found(self, found: bool, name: str) -> None:
        if not found:
            raise self._unknown(name)

    def _unknown(self, name: str) -> ScheduleNotFound:
        """Names what may be meant: the last part of a name often stands for all of it, as with tasks."""
        try:
            names = [row.name for row in self._storage().schedules()]
        except RaftworkError:
            names = []  # Such as one who may delete schedules, and not see them.
        ends = [known for known in names if known.endswith(f".{name}")]
        near = ends or (difflib.get_close_matches(name, names, n=1) if len(names) <= GUESSED_MAX else [])
        guess = f" Did you mean {near[0]}?" if near else ""
        return ScheduleNotFound(f"There is no schedule {name!r}.{guess} `raftwork schedule list` shows all.")


def check_name(name: str) -> str:
    """The name of a schedule."""
    options.check_name(name, "The name of a schedule")
    if len(name.encode()) > NAME_BYTES_MAX:
        raise InvalidName(
            f"The name of a schedule has {len(name.encode())} bytes; at most {NAME_BYTES_MAX} are allowed."
        )
    return name


def define(text: str | None, every: Duration | None, when: When) -> Definition:
    """A definition out of options as callers wrote them."""
    unknown = when.keys() - When.__annotations__.keys()
    if unknown:
        raise InvalidOption(
            f"{min(unknown)} is not an option of a schedule. "
            f"Options: cron, every, {', '.join(When.__annotations__)}, overlap."
        )
    return cron.define(text, every, **when)


def _call_of(call: Any) -> Signature[Any]:
    """The call of every job. A schedule has no place for what belongs to one job only."""
    if isinstance(call, Task):
        try:
            call = call.s().complete()
        except TypeError as error:
            raise InvalidTask(
                f"{call.name} needs arguments, and a schedule gives none by itself: {error}. "
                "Give them with args=(...) and kwargs={...}, or put task.s(...)."
            ) from None
    if not isinstance(call, Signature):
        raise InvalidTask(f"{call!r:.100} is not a task. Decorate the function with @app.task first.")
    for option, instead in (("unique", "overlap"), ("delay", "cron"), ("run_at", "start"), ("after", "cron")):
        if call.task.options.get(option):
            raise InvalidOption(
                f"{call.task.name} has {option}=..., which its schedule could not keep. Use {instead}=... of the "
                f"schedule, with {call.task.name.rpartition('.')[2]}.using({option}=None)."
            )
    return call.complete()


def _readable(packed: bytes) -> Definition | None:
    try:
        return Definition.unpack(packed)
    except RaftworkError:
        return None
