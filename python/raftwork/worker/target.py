"""Applications by name: `module:attribute`, as the command line and the child processes load them."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from raftwork import references
from raftwork.errors import ConfigError

if TYPE_CHECKING:
    from raftwork.app import Raftwork

__all__ = ["is_loading", "load", "target_of"]

_loading = 0


def load(target: str) -> Raftwork:
    """Import an application.

    Raises:
        ConfigError: the name is malformed, or does not lead to an application. Errors of the module itself pass.
    """
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise ConfigError(f"{target!r} is not of the form module:attribute, such as shop.jobs:app.")
    global _loading
    _loading += 1
    try:
        found: object = importlib.import_module(module_name)
    finally:
        _loading -= 1
    for name in path.split("."):
        found = getattr(found, name, None)
    # Asked of its class: `storage` of the object itself would be made, and fails when the application is closed.
    if not hasattr(type(found), "tasks") or not hasattr(type(found), "storage"):
        raise ConfigError(f"{target} is {type(found).__name__}, not an application. Name the Raftwork object.")
    return found  # type: ignore[return-value]


def is_loading() -> bool:
    """Whether an application is being imported by its name.

    A worker that is started by that import would run in every child process, and start children of its own.
    """
    return _loading > 0


def target_of(app: Raftwork) -> str:
    """The name under which a child process finds this application.

    Raises:
        ConfigError: it is no attribute of an imported module.
    """
    # The script comes last: importing it again would run it again, unless it takes care.
    modules = sorted(sys.modules.items(), key=lambda item: item[0] in ("__main__", "__mp_main__"))
    for name, module in modules:
        for attribute, value in list(vars(module).items()) if module is not None else ():
            if value is app:
                return f"{references.main_name() if name == '__main__' else name}:{attribute}"
    raise ConfigError(
        'Tasks with executor="process" run in child processes, which must import the application, but it is not an '
        'attribute of a module. Keep it in one, or pass Worker(app, target="module:attribute").'
    )
