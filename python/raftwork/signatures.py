"""What a function accepts, checked at the speed of a call.

`inspect.Signature.bind` costs several microseconds. A function with the same parameters and an empty body is checked
by the interpreter itself in a tenth of one, and raises the same TypeError as the real call would.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable
from typing import Any, get_origin

from raftwork import references
from raftwork.errors import InvalidTask
from raftwork.options import check_name

__all__ = ["CheckCall", "check_call_of", "name_of", "parameters_of", "wants"]

CheckCall = Callable[..., None]
"""Accepts exactly the arguments that a function accepts; raises TypeError for others."""


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function, in order."""
    return list(inspect.signature(function).parameters.values())


def wants(function: Callable[..., Any], parameter: inspect.Parameter, kind: type) -> bool:
    """Whether the annotation of a parameter is this class, also when annotations are text or cannot be evaluated."""
    annotation = parameter.annotation
    annotation = get_origin(annotation) or annotation
    if isinstance(annotation, type):
        return issubclass(annotation, kind)
    if not isinstance(annotation, str):
        return False
    try:
        found = eval(annotation, getattr(function, "__globals__", {}))
    except Exception:
        # A name that is imported for type checkers only. Its last part must do.
        return annotation.partition("[")[0].rpartition(".")[2] == kind.__name__
    found = get_origin(found) or found
    return isinstance(found, type) and issubclass(found, kind)


def check_call_of(name: str, parameters: list[inspect.Parameter]) -> CheckCall:
    """A function with these parameters that does nothing.

    Defaults are replaced by None, so nothing of the user is evaluated or kept. Names come from a compiled function, so
    they are identifiers.
    """
    parts: list[str] = []
    last: Any = None
    for parameter in parameters:
        if last is inspect.Parameter.POSITIONAL_ONLY and parameter.kind is not last:
            parts.append("/")
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and last not in (
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.VAR_POSITIONAL,
        ):
            parts.append("*")
        parts.append(_declared(parameter))
        last = parameter.kind
    if last is inspect.Parameter.POSITIONAL_ONLY:
        parts.append("/")
    called = name if name.isidentifier() and not keyword.iskeyword(name) else "task"
    space: dict[str, Any] = {}
    try:
        exec(f"def {called}({', '.join(parts)}): pass", space)
    except SyntaxError as error:
        raise InvalidTask(f"{name} has a parameter that cannot be named in Python: {error}.") from None
    check: CheckCall = space[called]
    return check


def _declared(parameter: inspect.Parameter) -> str:
    kind = parameter.kind
    stars = "*" if kind is parameter.VAR_POSITIONAL else "**" if kind is parameter.VAR_KEYWORD else ""
    default = "" if parameter.default is inspect.Parameter.empty else "=None"
    return f"{stars}{parameter.name}{default}"


def name_of(fn: Any, name: str | None) -> str:
    """The name of a task, after checking that its function can be one."""
    if not inspect.isfunction(fn):
        what = "class" if inspect.isclass(fn) else type(fn).__name__
        raise InvalidTask(f"{fn!r} is a {what}; only a function defined with def can be a task. Wrap it in one.")
    where = f"{fn.__code__.co_filename}:{fn.__code__.co_firstlineno}"
    if fn.__name__ == "<lambda>":
        raise InvalidTask(
            "A lambda cannot be a task: another process could not find it again. "
            f"Give it a name at module level: {where}."
        )
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise InvalidTask(f"{fn.__qualname__} is a generator; a task returns one result. Return a list: {where}.")
    if name is not None:
        return check_name(name, "The name of the task")
    if "<locals>" in fn.__qualname__:
        raise InvalidTask(
            f"{fn.__name__} is defined inside a function: another process could not find it again. Move it to module "
            f"level, or give it a stable name with @app.task(name=...): {where}."
        )
    first = next(iter(inspect.signature(fn).parameters), None)
    if "." in fn.__qualname__ and first in ("self", "cls"):
        raise InvalidTask(f"{fn.__qualname__} is a method; a job carries no object. Use a function: {where}.")
    return check_name(f"{references.module_name(fn)}.{fn.__qualname__}", "The name of the task")
