"""What workers say about the functions that they know, and what is made of it."""

from __future__ import annotations

import pytest

from raftwork.known import LABELS_MAX, Known, labels_of, own_labels
from raftwork.storage.base import SessionInfo

CLAIMED_MAX = 1_024
"""Functions of one claim."""


def session(labels: dict[str, str], kind: str = "worker") -> SessionInfo:
    return SessionInfo(1, kind, "host", 7, labels, 0, 0)


def names(count: int) -> list[str]:
    return [f"shop.jobs.task_{number}" for number in range(count)]


@pytest.mark.parametrize("count", [1, 62, 63, 64, 126, 500, CLAIMED_MAX])
def test_each_function_is_known_and_another_is_not(count: int) -> None:
    labels = labels_of(names(count), {"lane": "thread", "rack": "7"})
    known = Known([session(labels)])
    assert all(name in known for name in names(count))
    assert "shop.jobs.other" not in known
    assert len(labels) < LABELS_MAX, "the cluster writes one beside them"
    assert all(len(text) <= 255 for text in labels.values())
    assert own_labels(labels) == {"lane": "thread", "rack": "7"}


def test_workers_know_together_and_clients_know_nothing() -> None:
    first, second = labels_of(["a"], {"lane": "thread"}), labels_of(["b"], {"lane": "async"})
    known = Known([session(first), session(second), session({}, "client")])
    assert ("a" in known, "b" in known, "c" in known, known.workers) == (True, True, False, 2)
    assert "a" not in Known([session({}, "client")])


def test_a_worker_that_does_not_say_counts_as_one_that_knows_everything() -> None:
    assert "a" in Known([session(labels_of(["b"], {})), session({"lane": "thread"})])


def test_labels_that_have_no_room_are_left_out_as_a_whole() -> None:
    own = {f"own{number}": "" for number in range(LABELS_MAX - 18)}
    assert len(labels_of(names(CLAIMED_MAX), own)) == LABELS_MAX - 1
    assert labels_of(names(CLAIMED_MAX), own | {"lane": "thread"}) == own | {"lane": "thread"}
