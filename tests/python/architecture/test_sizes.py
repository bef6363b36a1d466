"""A file has at most 500 lines, a function at most 70, and the package calls nothing that it must not call."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

FILES = sorted(path for folder in ("python", "tests", "benches", "examples") for path in (ROOT / folder).rglob("*.py"))

# Call, and what to use in its place. Checked in the package only.
FORBIDDEN = {
    "print": "click.echo in the CLI, logging elsewhere",
    "time.sleep": "wait for a signal with a deadline",
    "time.time": "raftwork.clock, the one place that reads the time",
    "datetime.now": "raftwork.clock, the one place that reads the time",
    "datetime.utcnow": "raftwork.clock, with a time zone",
    "pickle.loads": "raftwork.serde: pickle runs code of whoever wrote the bytes",
    "pickle.dumps": "raftwork.serde",
    "os._exit": "sys.exit, or the reason why no clean-up may run, in ALLOWED of this test",
    "logging.basicConfig": "nothing: the root logger belongs to the user",
}
# (file, call): why it is right there.
ALLOWED = {
    ("python/raftwork/clock.py", "time.time"): "it is the one place",
    ("python/raftwork/clock.py", "datetime.now"): "it is the one place",
    (
        "python/raftwork/worker/logs.py",
        "logging.basicConfig",
    ): "for processes that are nothing but our node, relay or worker",
    ("python/raftwork/cli/node.py", "os._exit"): "told to stop while it waits for the other members: nothing is open",
    (
        "python/raftwork/worker/child.py",
        "os._exit",
    ): "its worker is dead: nobody may run a job whose lease nobody holds",
    ("python/raftwork/worker/signals.py", "os._exit"): "the third signal: whoever sends it wants the process gone",
}


def test_files_stay_short() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    wrong = [f"{name}: {lines} lines" for name, lines in long.items() if lines > FILE_LINES_MAX]
    assert not wrong, f"A file has at most {FILE_LINES_MAX} lines; split by subject:\n" + "\n".join(wrong)


def test_functions_stay_short() -> None:
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
                if lines > FUNCTION_LINES_MAX:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines")
    assert not wrong, f"A function has at most {FUNCTION_LINES_MAX} lines without its docstring:\n" + "\n".join(wrong)


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return (first.end_lineno or first.lineno) - first.lineno + 1
    return 0


def test_forbidden_calls_are_absent() -> None:
    wrong = []
    for path in (ROOT / "python").rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if call in FORBIDDEN and (name, call) not in ALLOWED:
                wrong.append(f"{name}:{node.lineno}: {call}; use {FORBIDDEN[call]}")
    assert not wrong, "Forbidden calls:\n" + "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no docstring"
