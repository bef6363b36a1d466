"""The stub of the compiled module names exactly what the module has. Types are compared by stubtest (`make lint`)."""

import ast
from pathlib import Path

from raftwork import _core

STUB = Path(__file__).parents[3] / "python" / "raftwork" / "_core.pyi"


def members(body: list[ast.stmt]) -> set[str]:
    names = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def public(thing: object) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def test_stub_and_module_have_the_same_names() -> None:
    tree = ast.parse(STUB.read_text())
    assert members(tree.body) == public(_core)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            assert members(node.body) == public(getattr(_core, node.name)), f"class {node.name}"


def test_stub_is_documented() -> None:
    tree = ast.parse(STUB.read_text())
    bare = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not bare, f"_core.pyi says nothing about {bare}"
