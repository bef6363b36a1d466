"""One table says which events there are: nothing else is told, and everything in it is, with just these fields."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftwork import InvalidOption, Raftwork, events
from raftwork.events import EVENTS

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "python" / "raftwork"
PASSES_ON = {("worker/announce.py", "_emit")}
"""Functions that hand an event on, whose callers are looked at in their place."""


@functools.cache
def emissions() -> list[tuple[str, str, list[str | None]]]:
    """Where something is told: place, name, and the fields; None for fields that a dict brings."""
    return list(found())


def found() -> Iterator[tuple[str, str, list[str | None]]]:
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and (place, function.name) in PASSES_ON:
                continue
            for node in ast.iter_child_nodes(function):
                yield from within(place, node)


def within(place: str, root: ast.AST) -> Iterator[tuple[str, str, list[str | None]]]:
    if isinstance(root, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
        return  # It is looked at by itself.
    if isinstance(root, ast.Call) and ast.unparse(root.func) in ("events.emit", "emit", "_emit"):
        for name in names_of(root.args[0], place):
            yield f"{place}:{root.lineno}", name, [keyword.arg for keyword in root.keywords]
    if isinstance(root, ast.Call) and ast.unparse(root.func) == "Event" and isinstance(root.args[0], ast.Constant):
        (name,) = names_of(root.args[0], place)
        yield f"{place}:{root.lineno}", name, [None]  # Its fields are made when they are read; test_events reads them.
    for child in ast.iter_child_nodes(root):
        yield from within(place, child)


def names_of(argument: ast.expr, place: str) -> list[str]:
    """The name of an event, which has to stand there as it is; or all of a loop over names that do."""
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return [argument.value]
    if isinstance(argument, ast.Name) and argument.id == "name":
        text = (PACKAGE / place).read_text()
        listed = re.search(r"for name, \w+ in \((.*)\):", text)
        assert listed, f"{place}: the name of an event is not a text"
        return re.findall(r'"([a-z_]+\.[a-z_]+)"', listed[1])
    raise AssertionError(f"{place}:{argument.lineno}: the name of an event is not a text")


def test_everything_that_is_told_is_in_the_table_and_nothing_else() -> None:
    told = {name for _, name, _ in emissions()}
    assert told == set(EVENTS)


def test_fields_are_those_of_the_table() -> None:
    wrong = []
    for place, name, fields in emissions():
        known = set(EVENTS[name].fields)
        given = {field for field in fields if field}
        if given - known or (None not in fields and given != known):
            wrong.append(f"{place}: {name} has {sorted(given)}, and the table {sorted(known)}")
    assert not wrong, "\n".join(wrong)


def test_the_reference_shows_the_table() -> None:
    page = (ROOT / "docs" / "reference" / "events.md").read_text()
    shown = re.findall(r"^\| `(\w+\.\w+)` \| ([^|]*) \| ([^|]*) \|$", page, re.M)
    assert shown == [
        (name, kind.when, ", ".join(f"`{field}`" for field in kind.fields)) for name, kind in EVENTS.items()
    ]
    explained = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`[a-z_`, ]+) \|", page, re.M))))
    assert explained == {field for kind in EVENTS.values() for field in kind.fields}


def test_subscribing_to_some_and_ending_it() -> None:
    seen: list[str] = []
    app = Raftwork("test", "memory://")
    every = app.subscribe(lambda event: seen.append(event.name))
    some = events.subscribe(lambda event: seen.append(f"some {event.name}"), "lock.lost", "lock.released")
    events.emit("lock.released", lock="a", token=1)
    events.emit("job.lost")
    every()
    every()
    events.emit("lock.lost")
    some()
    events.emit("lock.lost")
    assert seen == ["lock.released", "some lock.released", "job.lost", "some lock.lost"]
    assert not events.listening()


def test_only_those_who_asked_for_an_event_are_looked_for() -> None:
    assert events.listeners == {}
    some, every = events.subscribe(print, "job.failed"), events.subscribe(repr)
    assert events.listeners == {name: (print, repr) if name == "job.failed" else (repr,) for name in EVENTS}
    every()
    assert events.listeners == {"job.failed": (print,)}
    some()
    assert events.listeners == {}


def test_fields_are_made_when_they_are_read_and_once() -> None:
    made: list[int] = []

    def make(number: int) -> dict[str, int]:
        made.append(number)
        return {"number": number}

    event = events.Event("job.lost", (7,), make)
    assert made == []
    assert event.fields is event.fields
    assert (event.fields, made) == ({"number": 7}, [7])
    assert repr(event) == "Event('job.lost', {'number': 7})"
    assert events.Event("job.lost", {"id": 1}) == events.Event("job.lost", {"id": 1})
    with pytest.raises(AttributeError):
        event.name = "job.failed"  # type: ignore[misc]


def test_a_listener_that_raises_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[events.Event] = []

    def broken(event: events.Event) -> None:
        raise ValueError("no")

    ends = [events.subscribe(broken), events.subscribe(seen.append), events.subscribe(seen.append)]
    events.emit("job.lost")
    for end in ends:
        end()
    assert len(seen) == 2, "who subscribes twice is told twice"
    assert "A listener failed on job.lost" in caplog.text


@pytest.mark.parametrize("name", ["job.fail", "", "job.*"])
def test_an_unknown_event_is_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match=r"is not an event\..* Events: job\.enqueued"):
        Raftwork("test", "memory://").subscribe(print, name)
    assert not events.listening()
