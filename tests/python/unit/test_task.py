"""Tasks: what can be one, what it is called, how it is called, and how its options add up."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from raftwork import (
    InvalidName,
    InvalidOption,
    InvalidTask,
    JobContext,
    NotRunning,
    Raftwork,
    Retry,
    TaskNotRegistered,
    Unique,
)
from raftwork.context import StopFlag
from raftwork.signatures import check_call_of, parameters_of
from raftwork.storage.base import ClaimedJob, read_meta

from . import shop

if TYPE_CHECKING:
    from raftwork import JobContext as OnlyForCheckers


@pytest.fixture
def app() -> Raftwork:
    return Raftwork("test", "memory://?clock=manual")


def module_level(value: int = 0) -> int:
    return value


class Holder:
    def method(self) -> None: ...

    @staticmethod
    def static(value: int) -> int:
        return value

    def __call__(self) -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> Any:
    yield 1


def test_the_name_is_module_and_qualname(app: Raftwork) -> None:
    assert app.task(module_level).name == f"{__name__}.module_level"
    assert app.task(Holder.static).name == f"{__name__}.Holder.static"
    assert app.task(name="mine")(module_level).name == "mine"
    assert set(app.tasks) == {f"{__name__}.module_level", f"{__name__}.Holder.static", "mine"}


def test_a_script_is_called_by_the_name_by_which_others_import_it(
    app: Raftwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    script = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.setattr(module_level, "__module__", "__main__")
    script.__file__ = "/srv/shop/jobs.py"
    assert Raftwork("a").task(module_level).name == "jobs.module_level"
    script.__spec__ = types.SimpleNamespace(name="shop.jobs")  # type: ignore[assignment]
    assert Raftwork("b").task(module_level).name == "shop.jobs.module_level"
    script.__spec__ = types.SimpleNamespace(name="shop.__main__")  # type: ignore[assignment]
    assert Raftwork("c").task(module_level).name == "shop.module_level"
    del script.__file__
    script.__spec__ = None
    assert Raftwork("d").task(module_level).name == "__main__.module_level"


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (lambda: 1, "lambda"),
        (Holder, "class"),
        (Holder(), "Holder"),
        (Holder().method, "method"),
        (Holder.method, "carries no object"),
        (functools.partial(module_level, 1), "partial"),
        (len, "builtin"),
        (generator, "generator"),
        (async_generator, "generator"),
        (module_level(), "int"),
        ("shop.add", "str"),
        (None, "NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_only_functions_that_others_can_find_are_tasks(app: Raftwork, thing: Any, words: str) -> None:
    with pytest.raises(InvalidTask, match=words):
        app.task(thing)
    assert not app.tasks


def test_nested_functions_need_a_name(app: Raftwork) -> None:
    def nested() -> None: ...

    with pytest.raises(InvalidTask, match="name="):
        app.task(nested)
    assert app.task(name="nested")(nested).name == "nested"


def test_a_name_belongs_to_one_function(app: Raftwork) -> None:
    app.task(name="x")(module_level)
    app.task(name="x")(module_level)  # As when a module is loaded again.
    with pytest.raises(InvalidTask, match="already"):
        app.task(name="x")(Holder.static)
    with pytest.raises(InvalidTask, match="already"):
        app.task(app.tasks["x"])


def test_a_plain_call_runs_the_function() -> None:
    assert shop.add(1, right=2) == 3
    assert asyncio.run(shop.ping("x")) == "x"
    assert shop.add.__name__ == "add"
    assert inspect.unwrap(shop.add) is shop.add.fn


def claimed() -> ClaimedJob:
    return ClaimedJob(b"i" * 16, 9, "f", "q", b"", 2, 0, 0, 0, 0, 0, 60_000, 10, 3, ("t",), b"", None)


class Link:
    def send(self, progress: bytes | None, state: bytes | None) -> None: ...
    def settle(self) -> None: ...


def test_a_plain_call_of_a_task_with_context_needs_one() -> None:
    with pytest.raises(NotRunning):
        shop.report("acme")
    context = JobContext(claimed(), Link(), StopFlag())
    assert shop.report(context, "acme") == "acme 2"  # type: ignore[arg-type]


def postponed(ctx: OnlyForCheckers, value: int) -> None: ...
def dotted(ctx: raftwork.JobContext, value: int) -> None: ...  # type: ignore[name-defined] # noqa: F821
def unannotated(ctx, value): ...  # type: ignore[no-untyped-def]
def evaluated(ctx: JobContext) -> None: ...


@pytest.mark.parametrize(
    ("function", "takes"), [(postponed, False), (dotted, True), (unannotated, False), (evaluated, True)]
)
def test_the_context_parameter_is_recognised(app: Raftwork, function: Callable[..., Any], takes: bool) -> None:
    # `OnlyForCheckers` cannot be evaluated and is not called JobContext, so it counts as an argument.
    assert app.task(function).takes_context is takes


@pytest.mark.parametrize(
    "function",
    [
        lambda: 0,
        lambda a: 0,
        lambda a, /: 0,
        lambda a, /, b: 0,
        lambda a, /, b=1, *, c: 0,
        lambda *a: 0,
        lambda *a, b, c=1: 0,
        lambda **k: 0,
        lambda a=1, *b, c=2, **d: 0,
        lambda self, task, args: 0,
    ],
)
def test_the_quick_check_agrees_with_signature_bind(function: Callable[..., Any]) -> None:
    check = check_call_of("f", parameters_of(function))
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}), ((1,), {}), ((1, 2), {}), ((1, 2, 3), {}), ((), {"a": 1}), ((1,), {"a": 1}), ((1,), {"b": 1}),
        ((1,), {"c": 1}), ((1, 2), {"c": 1}), ((), {"z": 1}), ((), {"b": 1}), ((1, 2), {"args": 3}), ((), {"self": 1}),
    ]  # fmt: skip
    for args, kwargs in calls:
        try:
            inspect.signature(function).bind(*args, **kwargs)
            fits = True
        except TypeError:
            fits = False
        if fits:
            check(*args, **kwargs)
        else:
            with pytest.raises(TypeError, match=r"f\(\)"):
                check(*args, **kwargs)


def test_using_adds_up_and_leaves_the_original_alone() -> None:
    mail = shop.send.using(priority=5, tags=["a", "b", "a"], retry=3)
    urgent = mail.using(priority=-100, unique=None, timeout="1m", run_at=datetime(2030, 1, 1, tzinfo=UTC))
    spec = urgent.plan().spec
    assert (spec.queue, spec.priority, spec.tags, spec.max_attempts, spec.timeout_ms) == (
        "mail",
        -100,
        ("a", "b"),
        3,
        60_000,
    )
    assert urgent.plan().run_at_ms == 1_893_456_000_000
    assert urgent.using(delay="1s").plan().run_at_ms is None
    assert urgent.using(delay=None).plan().run_at_ms is None
    assert mail.plan().spec.priority == 5
    assert shop.send.plan().spec.priority == 0
    assert read_meta(spec.meta) == Retry(3)


def test_settings_fill_in_what_options_leave_open() -> None:
    app = Raftwork("test", "memory://", queue="slow", max_attempts=4, max_crashes=1, timeout="1h", keep_failed="1d")
    spec = app.task(module_level).plan().spec
    assert (spec.queue, spec.max_attempts, spec.max_crashes, spec.timeout_ms) == ("slow", 4, 1, 3_600_000)
    assert (spec.keep_result_ms, spec.keep_failed_ms) == (86_400_000, 86_400_000)
    assert app.task(timeout=None)(module_level).plan().spec.timeout_ms is None


def key_of(task: Any, *args: Any, **kwargs: Any) -> str:
    make = task.plan().unique_key
    assert make is not None
    return str(make(args, kwargs))


def test_unique_keys_of_arguments_do_not_depend_on_how_they_are_passed() -> None:
    assert key_of(shop.send, 7) == key_of(shop.send, user_id=7) == key_of(shop.send, 7, template="default")
    assert key_of(shop.send, 7) != key_of(shop.send, 8)
    assert key_of(shop.send, 1) != key_of(shop.send, True)


def test_unique_keys_from_templates_and_functions() -> None:
    name = shop.send.name
    assert key_of(shop.send.using(unique="user:{user_id}"), 7) == f"{name}:user:7"
    assert key_of(shop.send.using(unique="{template}"), 7) == f"{name}:default"
    assert key_of(shop.send.using(unique=lambda user_id, template="x": f"{user_id}/{template}"), 7) == f"{name}:7/x"
    long = key_of(shop.send.using(unique="{template}"), 7, template="x" * 300)
    assert len(long) < 255
    assert long != key_of(shop.send.using(unique="{template}"), 7, template="x" * 301)
    assert "\n" not in key_of(shop.send.using(unique="{template}"), 7, template="a\nb")


@pytest.mark.parametrize("unique", ["{nobody}", "{", "{}", "{0}", "", 5, Unique("{nobody}")])
def test_bad_unique_keys_are_refused_where_they_are_written(unique: Any) -> None:
    with pytest.raises(InvalidOption):
        shop.send.using(unique=unique)


@pytest.mark.parametrize("answer", ["", None, 5])
def test_a_unique_function_must_answer_a_text(answer: Any) -> None:
    with pytest.raises(InvalidName):
        key_of(shop.send.using(unique=lambda *_, **__: answer), 7)


def test_the_executor_must_fit_the_function(app: Raftwork) -> None:
    with pytest.raises(InvalidOption, match="plain function"):
        app.task(name="a", executor="async")(shop.add.fn)
    with pytest.raises(InvalidOption, match="coroutine"):
        app.task(name="b", executor="process")(shop.ping.fn)
    assert (shop.add.executor, shop.ping.executor) == ("thread", "async")
    assert app.task(name="c", executor="process")(shop.add.fn).executor == "process"


def test_find_task_takes_the_last_part_and_suggests() -> None:
    assert shop.app.find_task("add") is shop.add
    assert shop.app.find_task(shop.send.name) is shop.send
    with pytest.raises(TaskNotRegistered, match=r"Did you mean send\?"):
        shop.app.find_task("sned")
