"""The verdict about flows, limits, slots and locks: each mistake that it must find, planted into a good ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.model_jobs import LIMIT, RATE, SLOT_MS, WINDOW_MS
from cluster.model_verdict import Ledger, at_once, problems

Line = dict[str, Any]


class Story:
    """A ledger that is made line by line, and what the storage says at the end."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.details: dict[str, Line] = {}
        self.forgotten: set[str] = set()
        """What the second of two nodes does not know."""

    def run(self, job: str, task: str, at: int, end: int | None, token: int = 1, **words: Any) -> None:
        """A run from one moment to another. None: it did not come to its end."""
        told = {"job": job, "token": token}
        words.setdefault("pid", 1)
        self.lines.append({"what": "begins", "at": at, "task": f"model.{task}", **told, **words})
        if end is not None:
            self.lines.append({"what": "ends", "at": end, **told})
        detail = {"state": "succeeded", "attempt": 1, "crashes": 0, "started_ms": at}
        self.details.setdefault(job, detail)

    def say(self, what: str, **words: Any) -> None:
        self.lines.append({"what": what, "at": 0, **words})

    def problems(self) -> list[str]:
        other = {job: detail for job, detail in self.details.items() if job not in self.forgotten}
        return problems(Ledger.of(self.lines), [self.details, other])


def good() -> Story:
    """A batch that failed and was begun again, a chain, two members of one key, ticks, starts of a rate, and locks."""
    story = Story()
    story.say("flow", tag="b", callbacks=["failure", "finish"])
    story.say("again", tag="b", acknowledged=False)
    story.say("again", tag="b", acknowledged=True)
    for at, on in enumerate(("failure", "finish", "success")):
        story.run(f"on {on}", "called", at, at, tag="b", on=on)
    story.say("flow", tag="c", places=2)
    story.run("c0", "first", 0, 10, tag="c", place=0)
    story.run("c1", "plus", 11, 12, tag="c", place=1, got=5, wanted=5)
    for number in range(LIMIT):
        story.run(f"m{number}", "member", 0, 100, tag="m", key=1)
    story.run("m", "member", 100, 110, tag="m", key=1)
    for number in range(RATE + 1):
        story.run(f"p{number}", "paced", number * WINDOW_MS // RATE, None, tag="p")
    for second in range(3):
        story.run(f"t{second}", "tick", second, second, slot=second * SLOT_MS)
    story.say("held", name="model-lock", token=1, since=0, until=10)
    story.say("held", name="model-lock", token=4, since=11, until=20)
    story.say("held", name="model-permits", token=2, since=0, until=10)
    story.say("held", name="model-permits", token=3, since=5, until=20)
    return story


def test_a_good_ledger_has_nothing_wrong() -> None:
    assert good().problems() == []


def test_a_run_that_lost_its_lease_counts_nowhere() -> None:
    """It goes on beside the next one of its job, as long as it likes: the storage took the end of the other one."""
    story = good()
    story.run("m", "member", 0, 500, token=0, tag="m", key=1)
    story.details["m"]["crashes"] = 1
    assert story.problems() == []


def test_a_run_that_was_given_back_is_explained_and_only_that_one() -> None:
    """The worker could not make itself heard, and lives: no crash is counted, and its function goes on."""
    story = good()
    story.run("m", "member", 0, 500, token=0, tag="m", key=1, pid=2)
    story.lines.append({"what": "gave_up", "pid": 2, "at": 400})
    assert story.problems() == []
    story.run("m", "member", 401, 500, token=-1, tag="m", key=1, pid=2)
    assert len(story.problems()) == 1, "it began after that"


def test_a_node_that_does_not_remember_a_job_is_found() -> None:
    story = good()
    jobs = len(story.details)
    story.forgotten = {"m", "c0"}
    assert story.problems() == [f"node 1 remembers {jobs - 2} of {jobs} jobs, and not ['c0', 'm']"]
    del story.details["m"]
    of_first = f"node 0 remembers {jobs - 1} of {jobs} jobs, and not ['m']"
    assert story.problems() == [of_first, f"node 1 remembers {jobs - 2} of {jobs} jobs, and not ['c0', 'm']"]


def test_a_retry_in_doubt_may_have_begun_the_batch_again_or_not() -> None:
    story = good()
    story.lines = [line for line in story.lines if line["what"] != "again" or not line["acknowledged"]]
    assert story.problems() == []
    story.lines = [line for line in story.lines if line.get("on") != "success"]
    assert story.problems() == []


def drop(story: Story, job: str) -> None:
    story.lines = [line for line in story.lines if line.get("job") != job]


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lambda story: drop(story, "on finish"), "J11: batch b has 0 callbacks on finish, not 1"),
        (lambda story: drop(story, "on success"), "J11: batch b has 0 callbacks on success, not 1"),
        (lambda story: story.run("other", "called", 9, 9, tag="b", on="finish"), "has 2 callbacks on finish"),
        (lambda story: story.say("flow", tag="x", callbacks=["success"]), "batch x has 0 callbacks on success"),
        (
            lambda story: story.run("on finish", "called", 9, 9, token=7, tag="b", on="finish"),
            "job on finish ran 2",
        ),
        (lambda story: story.run("t1", "tick", 9, 9, slot=SLOT_MS), "J2: job t1 was run twice under one"),
        (lambda story: drop(story, "c1"), "J11: job 1 of c never ran"),
        (lambda story: story.run("c", "plus", 5, 6, tag="c", place=1, got=1, wanted=1), "ran before job 0 had ended"),
        (lambda story: story.run("c", "plus", 15, 16, tag="c", place=1, got=6, wanted=5), "got 6 and not 5"),
        (lambda story: story.run("n", "member", 50, 60, tag="m", key=1), f"J13: {LIMIT + 1} members with the key 1"),
        (lambda story: story.run("p", "paced", 1, None, tag="p"), f"J13: {RATE + 1} starts from"),
        (lambda story: story.run("t", "tick", 9, 9, slot=0), "C1: slot 0 has the jobs"),
        (lambda story: drop(story, "t1"), "C2: no slot between 0 and 2000"),
        (
            lambda story: story.say("held", name="model-lock", token=9, since=15, until=30),
            "K1: 2 holders of",
        ),
        (lambda story: story.say("held", name="model-lock", token=3, since=21, until=30), "K2: token 3 was granted"),
        (lambda story: story.say("held", name="model-permits", token=5, since=6, until=7), "K1: 3 holders of"),
        (lambda story: story.say("held", name="model-permits", token=3, since=30, until=31), "K2: two holders"),
        (lambda story: story.details["m"].update(state="awaiting"), "J6: job m is awaiting at the end"),
    ],
)
def test_a_mistake_is_found(plant: Callable[[Story], None], words: str) -> None:
    story = good()
    story.details["t1"] |= {"attempt": 2}  # What explains a second run, but not under the same token.
    plant(story)
    found = story.problems()
    assert any(words in problem for problem in found), found
    assert len({problem.split()[0] for problem in found}) == 1, f"and nothing else: {found}"


def test_jobs_of_an_asking_without_an_answer_are_in_doubt() -> None:
    story = good()
    story.say("asks", number="1", jobs=3)
    story.say("asks", number="2", jobs=2)
    story.say("stored", number="1", jobs=3)
    ticks = 3
    assert Ledger.of(story.lines).counted() == (3 + ticks, 2)


def test_spans_that_touch_have_no_moment_in_common() -> None:
    assert at_once([(0, 5), (5, 9)]) == 1
    assert at_once([(0, 5), (4, 9), (4, 5)]) == 3
    assert at_once([]) == 0
