"""Names for classes and functions that another process can follow: `module:qualname`.

The module that was started as a script is called `__main__` in its own process and by its real name everywhere else.
So it gets its real name here: that of `python -m NAME`, or the stem of the file (`jobs` for `python jobs.py`), which
is what `raftwork worker jobs:app` imports. Without a file, as in an interactive session, it stays `__main__` and
means this process only.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from types import ModuleType
from typing import Any

__all__ = ["find", "has_builtin_part", "main_name", "module_name", "name_of"]


def main_name() -> str:
    """The real name of the module that was started as a script."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(file))[0] if file else "__main__"


def module_name(thing: Any) -> str:
    """The module of a class or function, by its real name."""
    name = str(getattr(thing, "__module__", "") or "")
    return main_name() if name == "__main__" else name


def name_of(kind: type) -> str:
    """The reference to a class.

    Raises:
        LookupError: following it would not lead back to the class; the message continues a sentence.
    """
    if "<locals>" in kind.__qualname__:
        raise LookupError(
            "that class is defined inside a function, where no other process finds it. Move it to a module."
        )
    module = sys.modules.get(kind.__module__)
    if module is None or _follow(module, kind.__qualname__) is not kind:
        raise LookupError(f"{kind.__module__}:{kind.__qualname__} does not lead back to that class.")
    return f"{module_name(kind)}:{kind.__qualname__}"


def find(reference: str, base: type | None) -> Any:
    """The Enum (a subclass of `base`) or, with `base` None, the dataclass that a reference names.

    Raises:
        LookupError: there is none, or what is there is something else.
    """
    name, _, qualname = reference.partition(":")
    module = _module(name)
    kind = None if module is None else _follow(module, qualname)
    if not isinstance(kind, type):
        raise LookupError(f"{reference} is not a class of this process. Import its module where the worker starts")
    # An alias is not followed: what is stored must name the class as the class names itself.
    if module_name(kind) != name or kind.__qualname__ != qualname:
        raise LookupError(f"{reference} is defined as {module_name(kind)}:{kind.__qualname__}")
    if base is None:
        if not dataclasses.is_dataclass(kind) or has_builtin_part(kind):
            raise LookupError(f"{reference} is not a dataclass")
    elif not issubclass(kind, base):
        raise LookupError(f"{reference} is not an {base.__name__}")
    return kind


def has_builtin_part(kind: type) -> bool:
    """Whether instances hold something of a built-in type (list, Exception) that their fields do not tell."""
    new: object = kind.__new__
    return new is not object.__new__


def _module(name: str) -> ModuleType | None:
    if name == main_name():
        return sys.modules.get("__main__")
    module = sys.modules.get(name)
    if module is None and name.partition(".")[0] in sys.modules:
        # Stored data never decides to load a package that the program does not use already.
        try:
            module = importlib.import_module(name)
        except ImportError:
            return None
    return module


def _follow(module: ModuleType, qualname: str) -> Any:
    thing: Any = module
    for part in qualname.split("."):
        # vars, not getattr: no descriptor and no module-level __getattr__ may run.
        thing = vars(thing).get(part) if isinstance(thing, ModuleType | type) else None
    return thing
