"""What goes wrong with workers, in a thread of its own beside what goes wrong with nodes."""

from __future__ import annotations

import random
import threading
import time
from itertools import cycle

from cluster.injections import LONGER_THAN_TTL_S
from cluster.lab import Lab
from cluster.machine import JUMPS_S, YEARS_S, Page

PATIENCE_S = 60.0
LOOKS_S = 10.0
"""Within this time a worker looks at its clock, also one that has just been started."""
CLOCKS = [*JUMPS_S, *YEARS_S]
KINDS = {"kill worker", "stop worker", "clock of worker"}


class WorkerFaults:
    """Kills workers, stops them for longer than their session lives, and sets their clocks, until it is told to end."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.pages = {slot: Page(lab.folder / f"page-worker-{slot}") for slot in lab.load.workers}
        for slot, page in self.pages.items():
            lab.load.more[slot] = page.environment(lab.nodes.library)
        self._chance = random.Random(seed)
        self._end = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="worker-faults")

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Make everything well; raises what went wrong in the thread."""
        self._end.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            workers = list(self.lab.load.workers)
            # The others never ask what time it is.
            looking = [slot for slot in workers if slot in self.lab.load.model]
            turns = cycle([(self._kill, workers), (self._stop, workers), (self._kill, workers), (self._jump, looking)])
            while not self._end.is_set():
                fault, places = next(turns)
                fault(self._chance.choice(places))
                self._end.wait(0.5)
        except BaseException as error:  # Told to whoever ends this thread.
            self._failure = error

    def _kill(self, slot: int) -> None:
        self.lab.load.kill(slot)
        self.lab.load.launch(slot)
        self.lab.note("kill worker")

    def _stop(self, slot: int) -> None:
        self.lab.load.pause(slot)
        too_short = self._end.wait(LONGER_THAN_TTL_S)
        self.lab.load.resume(slot)
        if not too_short:
            self.lab.note("stop worker")

    def _jump(self, slot: int) -> None:
        page, where = self.pages[slot], self._chance.choice(CLOCKS)
        misled = page.misled
        page.jump(where)
        self._end.wait(1.0)
        late = time.monotonic() + LOOKS_S
        while page.misled == misled and time.monotonic() < late and not self._end.is_set():
            self._end.wait(0.1)
        page.set_right()
        if page.misled > misled:
            self.lab.note("clock of worker")
        elif not self._end.is_set():
            self.lab.skip("clock of worker", f"the process of place {slot} did not look at its clock")


def kill_all_workers(lab: Lab) -> float:
    """Kill every worker and start others; gives the seconds until the dead ones held nothing any more (J6)."""
    began = time.monotonic()
    killed = {lab.load.processes[slot].pid for slot in lab.load.workers}
    for slot in lab.load.workers:
        lab.load.kill(slot)
    while any(pid in killed for _, _, _, pid, *_ in lab.ask((5,))):
        assert time.monotonic() < began + PATIENCE_S, f"J6: sessions of dead workers live after {PATIENCE_S} s"
        time.sleep(0.02)
    took = time.monotonic() - began
    for slot in lab.load.workers:
        lab.load.launch(slot)
    return took
