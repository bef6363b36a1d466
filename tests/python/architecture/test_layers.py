"""Imports between the modules of the package follow tests/layers.toml, also those inside functions."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "python" / "raftwork"


def load() -> tuple[dict[str, list[str]], dict[str, set[str]]]:
    """The groups, and for each layer the layers it may import, with the groups written out."""
    table = tomllib.loads((ROOT / "tests" / "layers.toml").read_text())["python"]
    groups: dict[str, list[str]] = table["groups"]
    allowed: dict[str, set[str]] = {}
    for name, below in table["allowed"].items():
        reach = {member for entry in below for member in groups.get(entry, [entry])}
        for layer in groups.get(name, [name]):
            allowed[layer] = reach
    return groups, allowed


def layer_of(module: str, layers: set[str]) -> str:
    """The longest prefix of a dotted name (without `raftwork.`) that is a layer."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in layers:
            return prefix
    return module


def module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name without `raftwork.`) of each import of our own; the root itself is `__init__`."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "raftwork":
                    yield node.lineno, alias.name.partition(".")[2] or "__init__"
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            elif (node.module or "").split(".")[0] == "raftwork":
                base = (node.module or "").split(".")[1:]
            else:
                continue
            base = [part for part in base if part]
            for alias in node.names:
                yield node.lineno, resolve(base, alias.name)


def resolve(base: list[str], name: str) -> str:
    """`from base import name`: the module itself when name is one, else base."""
    folder = PACKAGE.joinpath(*base)
    if (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists() or name == "_core":
        return ".".join([*base, name])
    return ".".join(base) or "__init__"


def test_imports_point_down() -> None:
    _, allowed = load()
    layers = set(allowed)
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = module_name(path)
        own = layer_of(module, layers)
        where = path.relative_to(ROOT)
        if own not in layers:
            wrong.append(f"{where}: `{own}` is not in tests/layers.toml")
            continue
        for line, name in imports(ast.parse(path.read_text()), module, path.name == "__init__.py"):
            used = layer_of(name, layers)
            if used != own and used not in allowed[own]:
                wrong.append(f"{where}:{line}: `{own}` may not import `{used}` (tests/layers.toml)")
    assert not wrong, "Layers point one way:\n" + "\n".join(wrong)


def test_allowed_edges_have_no_cycle() -> None:
    groups, allowed = load()
    peers = {layer: set(members) for members in groups.values() for layer in members}
    # Members of one group may use one another in the table; that they form no cycle is checked on the real imports.
    left = {name: reach - peers.get(name, set()) - {name} for name, reach in allowed.items()}
    while left:
        free = [name for name, reach in left.items() if not reach & left.keys()]
        assert free, f"tests/layers.toml has a cycle among {sorted(left)}"
        for name in free:
            del left[name]


def test_modules_form_no_cycle() -> None:
    """No circle of imports, counting those inside functions; those for type checkers only are left out."""
    graph: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = module_name(path)
        tree = ast.parse(path.read_text())
        tree = ast.fix_missing_locations(WithoutTypeChecking().visit(tree))
        graph[module] = {name for _, name in imports(tree, module, path.name == "__init__.py")} - {module}
    while graph:
        free = [name for name, reach in graph.items() if not reach & graph.keys()]
        assert free, "modules import one another in a circle: " + describe_circle(graph)
        for name in free:
            del graph[name]


class WithoutTypeChecking(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse
        return self.generic_visit(node)


def describe_circle(graph: dict[str, set[str]]) -> str:
    seen: list[str] = []
    name = min(graph)
    while name not in seen:
        seen.append(name)
        name = min(graph[name] & graph.keys())
    return " -> ".join([*seen[seen.index(name) :], name])
