"""What goes wrong with workers, in a thread of its own beside what goes wrong with nodes."""

from __future__ import annotations

import random
import threading
import time

from cluster.injections import LONGER_THAN_TTL_S
from cluster.lab import Lab
from cluster.machine import JUMPS_S, YEARS_S, Page

PATIENCE_S = 60.0
CLOCKS = [*JUMPS_S, *YEARS_S]


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
            number = 0
            while not self._end.is_set():
                slot = self._chance.choice(list(self.lab.load.workers))
                (self._kill, self._stop, self._kill, self._jump)[number % 4](slot)
                number += 1
                self._end.wait(0.5)
        except BaseException as error:  # Told to whoever ends this thread.
            self._failure = error

    def _kill(self, slot: int) -> None:
        self.lab.note("kill worker")
        self.lab.load.kill(slot)
        self.lab.load.launch(slot)

    def _stop(self, slot: int) -> None:
        self.lab.note("stop worker")
        self.lab.load.pause(slot)
        self._end.wait(LONGER_THAN_TTL_S)
        self.lab.load.resume(slot)

    def _jump(self, slot: int) -> None:
        where = self._chance.choice(CLOCKS)
        self.lab.note("clock of worker")
        self.pages[slot].jump(where)
        self._end.wait(1.0)
        self.pages[slot].set_right()


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
