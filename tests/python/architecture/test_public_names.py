"""The public names are few, sorted and documented."""

import inspect
import re
import typing
from types import ModuleType

import pytest

import raftwork
import raftwork.testing
import raftwork.testing.cluster
import raftwork.testing.fixtures

MODULES = [raftwork, raftwork.testing, raftwork.testing.cluster, raftwork.testing.fixtures]


def test_public_names_are_sorted() -> None:
    assert list(raftwork.__all__) == sorted(raftwork.__all__, key=str.casefold)


def test_public_names_exist_and_nothing_else_is_public() -> None:
    missing = [name for name in raftwork.__all__ if not hasattr(raftwork, name)]
    assert not missing, f"in __all__ but not there: {missing}"
    extra = [
        name
        for name, value in vars(raftwork).items()
        if not name.startswith("_") and name not in raftwork.__all__ and not inspect.ismodule(value)
    ]
    assert not extra, f"public by name but not in __all__: {extra}"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_names_are_documented(module: ModuleType) -> None:
    bare = [name for name in module.__all__ if not documented(getattr(module, name))]
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value):
            bare += [f"{name}.{member}" for member in undocumented_members(value)]
    assert not bare, "without a docstring: " + ", ".join(bare)


def documented(value: object) -> bool:
    if not (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)):
        return True  # a constant or a type alias is documented where it stands
    text = inspect.getdoc(value) or ""
    return len(text.strip()) > 10


def undocumented_members(cls: type) -> list[str]:
    """Public methods and properties that the class itself defines and says nothing about."""
    bare = []
    for name, member in vars(cls).items():
        if name.startswith("_"):
            continue
        target = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(target, property):
            target = target.fget
        if (inspect.isfunction(target)) and not (inspect.getdoc(target) or "").strip():
            bare.append(name)
    return bare


def test_errors_have_their_own_codes() -> None:
    from raftwork import errors

    codes: dict[str, str] = {}
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.RaftworkError) and "code" in vars(value):
            code = value.code
            assert re.fullmatch(r"RW\d{3}", code), f"{name}.code is {code!r}"
            assert code not in codes, f"{name} and {codes[code]} share {code}"
            codes[code] = name


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_signatures_are_typed(module: ModuleType) -> None:
    bare = []
    for name in module.__all__:
        value = getattr(module, name)
        for member, function in [("", value), *(vars(value).items() if inspect.isclass(value) else [])]:
            if inspect.isfunction(function) and not (member.startswith("_") and member != "__init__"):
                parameters = list(inspect.signature(function).parameters.values())
                untyped = [p.name for p in parameters if p.annotation is p.empty and p.name not in ("self", "cls")]
                if untyped or "return" not in typing.cast("dict[str, object]", function.__annotations__):
                    bare.append(f"{name}.{member}".rstrip("."))
    assert not bare, "without complete types: " + ", ".join(bare)
