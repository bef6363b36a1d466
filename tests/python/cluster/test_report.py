"""A run that did too little, or whose faults took no effect, does not pass."""

import dataclasses
from collections import Counter

import pytest

from cluster.report import Floors, Report

FLOORS = Floors(kinds=2, injections=38, operations=1_000)
WANTED = {"kill", "split"}
GOOD = Report("test", kinds=Counter(kill=20, split=18), skipped=[("kill", "nobody led")] * 2, operations=1_000)


def test_a_run_that_did_enough_passes() -> None:
    GOOD.check_amount(WANTED, FLOORS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"skipped": [("kill", "nobody led")] * 3}, r"7% of all faults took no effect: .*nobody led"),
        ({"kinds": Counter(kill=20, loss=18)}, r"of these faults none took effect: \['split'\]"),
        ({"kinds": Counter(kill=20, split=17)}, "too little was done: 37 injections of 2 kinds"),
        ({"kinds": Counter(kill=38)}, "too little was done"),
        ({"operations": 999}, "too little was done"),
    ],
)
def test_one_that_did_not_is_found(change: dict[str, object], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        dataclasses.replace(GOOD, **change).check_amount(WANTED, FLOORS)  # type: ignore[arg-type]
