"""Fires recurring schedules: one thread in each worker, whichever application its schedules belong to.

    ask what is due ──► nothing: sleep until the next slot, a second at most where few workers run
          ▲         └─► something: let the one that fired last go first, ask again, fire
          └───────────────────────────────────────────────────────────────────┘

Invariants
* Time is that of the storage, as the question for what is due tells it. The clock of this machine only says when to
  ask, and when that time looks old.
* Firing names the slot that it uses up, and the storage takes it once. So any number of schedulers may try; the one
  that fired last does not wait and the others do, so that mostly one tries.
* What fails is tried again a second later, and holds up no other schedule. A log line tells of it once, until it works;
  of all that failed in one turn for the same reason there is one line.
* What is due is asked for in pages, oldest first. Behind one with schedules that cannot be fired here (a definition
  that this process cannot read, a queue that is not its own) the next one is asked for, and the first one again after
  a second for each page that it took: until then a turn begins behind them, as if they were not there.
* Idle it costs one question a second, whatever the number of schedules: the storage knows which slot is next. Where
  many workers run, each asks less often, at random times: of a schedule that is due earlier than all others, one of
  them still knows within a second.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

from raftwork import clock
from raftwork.cron import Definition, job_id
from raftwork.errors import AccessDenied, InvalidOption, NotRunning, RaftworkError
from raftwork.storage.base import DueSchedules, Firing, ScheduleRow, SlotJob, Storage
from raftwork.worker import announce

__all__ = ["Scheduler"]

logger = logging.getLogger("raftwork.schedules")

IDLE_S = 1.0
"""Longest sleep of one of few workers: somebody may put a schedule that is due earlier than all others."""
IDLE_MANY_S = 5.0
"""The same where there are many, on average."""
QUESTIONS_S = 20
"""Idle questions a second of all workers together, at random times: enough that a second without one is rare, also
where each worker has two sessions."""
COUNT_S = 120.0
"""Time between two looks at how many workers there are, on average."""
EARLY_S = 0.02
"""First sleep when the clock of this machine says that a slot has come, and the storage's does not yet."""
PUT_AGAIN_S = 30.0
"""Time between two tries to store the schedules of code."""
STAGGER_S = (0.05, 0.25)
"""How long those wait that did not fire last."""
STALE_MS = 1_000
"""Difference of the clocks above which the time of the storage is brought up to date before something fires."""
ROWS_MAX = 1_000
NAMES_TOLD = 20
"""Names in one line of the log."""
JOBS_TOGETHER = 1_000
"""Jobs of firings that are under way at the same time."""

T = TypeVar("T")


class HasSchedules(Protocol):
    """What is needed of the application."""

    @property
    def storage(self) -> Storage:
        """Where schedules are."""
        ...

    def put_planned(self, storage: Storage) -> list[str]:
        """Store the schedules that code defines."""
        ...

    def orphaned(self, storage: Storage) -> list[ScheduleRow]:
        """Those that it no longer defines."""
        ...


class Pages:
    """What is due, page by page, and behind which place to begin: all up to there cannot be fired here."""

    def __init__(self) -> None:
        self._place: tuple[int, str] | None = None
        self._again_at = -math.inf
        self._hurry_at = math.inf

    def begin(self) -> None:
        """A turn begins. What could not be fired is tried again if it is time to."""
        if clock.monotonic() >= min(self._again_at, self._hurry_at):
            self._place = None
            self._hurry_at = math.inf

    @property
    def held(self) -> bool:
        """Whether something that could not be fired is to be tried again soon."""
        return self._place is not None or self._hurry_at < math.inf

    def hurry(self) -> None:
        """Something failed that may pass, such as a change of leader: all is tried again in a second."""
        self._hurry_at = min(self._hurry_at, clock.monotonic() + IDLE_S)

    def first(self, storage: Storage) -> DueSchedules:
        """The first page of a turn."""
        return self._from_place(storage) or storage.due_schedules(ROWS_MAX)

    def behind(self, storage: Storage, last: ScheduleRow) -> DueSchedules | None:
        """The page behind one that held some that cannot be fired. None: the node at hand has the first page only."""
        if self._place is None:
            self._again_at = clock.monotonic() + IDLE_S
        assert last.next_ms is not None
        self._place = (last.next_ms, last.name)
        page = self._from_place(storage)
        if page is not None and page.rows:
            # So that thousands that cannot be fired are not tried each second.
            self._again_at += IDLE_S
        return page

    def _from_place(self, storage: Storage) -> DueSchedules | None:
        if self._place is None:
            return None
        try:
            return storage.due_schedules(ROWS_MAX, self._place)
        except InvalidOption:
            self._place = None  # A node of an earlier version.
            return None


class Scheduler:
    """The thread, and what it does once in each turn."""

    def __init__(self, app: HasSchedules, stagger: Callable[[], float] = lambda: random.uniform(*STAGGER_S)) -> None:
        self._app = app
        self._stagger = stagger
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raftwork-schedules", daemon=True)
        self._put_at = -math.inf
        self._fired_last = False
        self._early_s = EARLY_S
        self._told: dict[str, str] = {}
        """What was logged last about each schedule that is not fired, and under "" about all of them."""
        self._untold: dict[str, list[str]] = {}
        """By the words of an error of this turn: the schedules that it is about."""
        self._pages = Pages()
        self._idle_s = IDLE_S
        self._count_at = -math.inf

    def start(self) -> None:
        """Begin to fire."""
        self._thread.start()

    def stop(self) -> None:
        """Fire nothing more. Returns at once."""
        self._closed.set()

    def close(self) -> None:
        """`stop`, and wait for the thread to end, unless it hangs in the storage for longer than a moment."""
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                wait_s = self.turn(self._app.storage)
                self._told.pop("", None)
            except NotRunning:
                return  # The application was closed.
            except RaftworkError as error:
                if self._told.get("") != error.code:
                    self._told[""] = error.code
                    logger.warning("Schedules are held up: %s", error)
                wait_s = IDLE_S
            except Exception:
                logger.exception("The scheduler failed, and goes on in a moment.")
                wait_s = IDLE_S
            self._closed.wait(wait_s)

    def turn(self, storage: Storage) -> float:
        """Do once what there is to do. Answers how many seconds to sleep."""
        self._put_planned(storage)
        self._pages.begin()
        try:
            return self._fire_due(storage)
        finally:
            self._tell_held()

    def _fire_due(self, storage: Storage) -> float:
        due = self._pages.first(storage)
        if due.rows and not self._fired_last:
            self._closed.wait(self._stagger())
            due = self._pages.first(storage)
        if due.rows and abs(clock.now_ms() - due.now_ms) > STALE_MS:
            # Nobody wrote since the slot came, perhaps for hours: without the time, an outage would look like none.
            storage.now_ms()
            due = self._pages.first(storage)
        if due.rows:
            outcomes, due = self._fire_pages(storage, due)
            self._fired_last = True in outcomes
            if self._fired_last or False in outcomes:
                return 0.0  # Another one was first, or time went on meanwhile: what is due now?
        if due.rows:
            return IDLE_S
        return min(self._sleep_s(due), IDLE_S if self._pages.held else self._idle(storage))

    def _idle(self, storage: Storage) -> float:
        """Longest sleep. Of many workers each sleeps for another time, so that they do not ask together."""
        if clock.monotonic() >= self._count_at:
            workers = self._count(storage)
            self._idle_s = min(max(IDLE_S, workers / QUESTIONS_S), IDLE_MANY_S)
            # The more there are, the longer is the answer.
            self._count_at = clock.monotonic() + 2 * COUNT_S * max(1.0, workers / 1_000) * random.random()
        return self._idle_s if self._idle_s == IDLE_S else 2 * self._idle_s * random.random()

    def _count(self, storage: Storage) -> int:
        """How many workers there are; each has a session for each of its lanes. 0: it may not know."""
        try:
            return len({(session.host, session.pid) for session in storage.sessions() if session.kind == "worker"})
        except NotRunning:
            raise
        except RaftworkError:
            return 0

    def _fire_pages(self, storage: Storage, due: DueSchedules) -> tuple[list[bool | None], DueSchedules]:
        """Fire what is due, page by page while some of it cannot be fired. Answers the outcomes and the last page."""
        outcomes: list[bool | None] = []
        while due.rows and not self._closed.is_set():
            found = self._fire(storage, due)
            outcomes += found
            further = self._pages.behind(storage, due.rows[-1]) if None in found else None
            if further is None:
                break
            due = further
        return outcomes, due

    def _put_planned(self, storage: Storage) -> None:
        if clock.monotonic() < self._put_at:
            return
        try:
            self._app.put_planned(storage)
            self._tell_orphaned(self._app.orphaned(storage))
            self._put_at = math.inf
        except NotRunning:
            raise
        except RaftworkError as error:
            # Not allowed, or not yet: each try is a write.
            self._put_at = clock.monotonic() + PUT_AGAIN_S
            logger.warning("The schedules of this program are not stored, which is tried again: %s", error)

    def _tell_orphaned(self, rows: Sequence[ScheduleRow]) -> None:
        if rows:
            logger.warning(
                "This program does not define the schedules %s any more, though their tasks are or were its own. They "
                "go on firing. Delete those that no other program defines: raftwork schedule delete NAME.",
                shown([row.name for row in rows]),
            )
        for row in rows:
            announce.orphaned(row)

    def _fire(self, storage: Storage, due: DueSchedules) -> list[bool | None]:
        """Fire what is due. True: fired. False: another was first. None: this one cannot be fired here and now."""
        outcomes: list[bool | None] = []
        firings: list[Firing] = []
        for row in due.rows:
            firing = self._try(row.name, partial(decide, row, due.now_ms))
            if firing is None:
                outcomes.append(None)
            elif firing.jobs:
                firings.append(firing)
            else:
                logger.warning("The schedule %r missed all slots from %s on.", row.name, clock.from_ms(firing.slot_ms))
                moved = self._end(row.name, partial(storage.move_schedule, *firing[:4]))
                outcomes.append(moved)
                if moved:
                    announce.missed(firing)
        for group in grouped(firings):
            if self._closed.is_set():
                break
            for firing, answer in zip(group, storage.fire_schedules(group), strict=True):
                outcomes.append(self._end(firing.name, partial(has_fired, answer)))
                if isinstance(answer, list):
                    announce.fired(firing, answer)
        return outcomes

    def _end(self, name: str, act: Callable[[], bool]) -> bool | None:
        """The last that is to be done about one schedule: if it works, what was wrong before is over."""
        done = self._try(name, act)
        if done is not None:
            self._told.pop(name, None)
        return done

    def _try(self, name: str, act: Callable[[], T]) -> T | None:
        """Do something about one schedule. What goes wrong is told, and holds up no other."""
        try:
            done = act()
        except NotRunning:
            raise
        except RaftworkError as error:
            if not isinstance(error, AccessDenied | InvalidOption):
                self._pages.hurry()
            self._note(name, error)
            return None
        except Exception:
            if self._told.get(name) != "":
                logger.exception("The schedule %r is not fired here.", name)
                self._told[name] = ""
            return None
        return done

    def _sleep_s(self, due: DueSchedules) -> float:
        """Until the next slot, if there is one."""
        if due.next_ms is None:
            return math.inf
        ahead_s = (due.next_ms - clock.now_ms()) / 1_000
        if ahead_s > 0:
            self._early_s = EARLY_S
            return ahead_s
        wait_s, self._early_s = self._early_s, min(2 * self._early_s, IDLE_S)
        return wait_s

    def _note(self, name: str, error: RaftworkError) -> None:
        if self._told.get(name) != error.code:
            self._told[name] = error.code
            self._untold.setdefault(str(error), []).append(name)

    def _tell_held(self) -> None:
        for words, names in self._untold.items():
            if len(names) == 1:
                logger.warning("The schedule %r is not fired here: %s", names[0], words)
            else:
                logger.warning("%s schedules are not fired here, %s: %s", f"{len(names):,}", shown(names), words)
        self._untold.clear()


def shown(names: Sequence[str]) -> str:
    """The first of these names, for a line of the log."""
    return ", ".join(names[:NAMES_TOLD]) + (" and others" if len(names) > NAMES_TOLD else "")


def decide(row: ScheduleRow, now_ms: int) -> Firing:
    """What has to happen with a schedule whose slot has come. Without jobs: only the next slot is set.

    Raises:
        InvalidOption: this process cannot read its definition.
    """
    assert row.next_ms is not None
    definition = Definition.unpack(row.definition)
    slots, following = definition.due(row.next_ms, now_ms)
    jobs = [SlotJob(job_id(row.name, slot), slot, definition.run_at(row.name, slot)) for slot in slots]
    return Firing(row.name, row.generation, row.next_ms, following, jobs)


def has_fired(answer: list[bool] | RaftworkError | None) -> bool:
    """What a storage answered to one firing."""
    if isinstance(answer, RaftworkError):
        raise answer
    return answer is not None


def grouped(firings: Sequence[Firing]) -> Iterator[list[Firing]]:
    """Those that are under way together: so many jobs at most, or one firing."""
    group: list[Firing] = []
    jobs = 0
    for firing in firings:
        if group and jobs + len(firing.jobs) > JOBS_TOGETHER:
            yield group
            group, jobs = [], 0
        group.append(firing)
        jobs += len(firing.jobs)
    if group:
        yield group
