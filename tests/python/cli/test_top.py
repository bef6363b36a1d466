"""`raftwork top`: in a real terminal, for scripts, while the leader is lost, and in any size."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raftwork import Raftwork, Retry
from raftwork.cli.top.asker import Asker
from raftwork.cli.top.scene import Scene, look, sort_queues
from raftwork.cli.top.screen import Looks, draw
from raftwork.errors import ClusterUnreachable
from raftwork.testing.cluster import Cluster
from raftwork.worker import Worker
from support.terminal import Terminal

PATIENCE_S = 60


def work(number: int) -> None: ...


def broken(number: int) -> None:
    raise ValueError(f"no invoice \x1b[31m{number}")


def fill(app: Raftwork) -> None:
    """Two queues that wait, and one failed job."""
    task = app.task(name="shop.work")(work)
    app.enqueue_many(task.using(queue="mail").s(number) for number in range(3))
    app.enqueue_many(task.using(queue="reports").s(number) for number in range(5))
    failing = app.task(name="shop.broken", queue="bad", retry=Retry(1))(broken)
    job = failing.enqueue(7)
    with Worker(app, ["bad"], threads=1):
        while not job.info().state.final:
            pass


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with jobs in it."""
    monkeypatch.chdir(tmp_path)
    with Raftwork("shop", "raft:///jobs") as app:
        fill(app)
    return tmp_path


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Terminals to be ended, whatever happens."""
    made: list[Terminal] = []
    yield made
    for terminal in made:
        terminal.kill()


def test_a_person_looks_and_pauses_a_queue(place: Path, terminals: list[Terminal]) -> None:
    terminal = Terminal("top", "--storage", "raft:///jobs", cwd=place)
    terminals.append(terminal)
    terminal.wait_for(r"enqueued 8 .* failed 1")
    terminal.wait_for(r"Member +Role +Lag")
    terminal.wait_for(r"\d+ +leader +0")
    terminal.wait_for(r"> reports +5 +0")
    terminal.wait_for(r"mail +3 +0")
    terminal.wait_for("No worker is connected")
    terminal.wait_for(r"shop\.broken +\S+ +ValueError: no")
    terminal.wait_for(r"sort \(by ready\)")
    terminal.press("j")
    terminal.wait_for(r"> mail +3")
    terminal.press("\x1b[A")
    terminal.wait_for(r"> reports +5")
    terminal.press("p")
    terminal.wait_for("paused: by raftwork top")
    terminal.wait_for(r"Queue reports is paused\. \[p\] resumes it\.")
    terminal.press("p")
    terminal.wait_for("Queue reports hands out jobs")
    terminal.press("s")
    terminal.wait_for(r"sort \(by running\)")
    terminal.press("q")
    assert terminal.end() == 0
    assert "\x1b[?1049l" in terminal.raw, "the screen from before is back"


def test_another_size_and_ctrl_c(place: Path, terminals: list[Terminal]) -> None:
    terminal = Terminal("top", "--storage", "raft:///jobs", "--sort", "name", cwd=place)
    terminals.append(terminal)
    terminal.wait_for(r"> bad +0")
    terminal.wait_for("Nothing has failed|ValueError")
    terminal.resize(10, 60)
    terminal.wait_for("3 more")
    terminal.resize(60, 160)
    terminal.wait_for(r"reports +5")
    terminal.wait_for(r"shop\.broken +\S+ +ValueError: no invoice +.31m7")
    terminal.resize(1, 1)
    terminal.resize(30, 100)
    terminal.wait_for(r"> bad +0")
    terminal.press("\x03")
    assert terminal.end() == 130


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_survives_a_lost_leader(tmp_path: Path, terminals: list[Terminal]) -> None:
    """A1: it goes on with another leader, and says how it is while there is none."""
    with Cluster(tmp_path) as cluster:
        with Raftwork("shop", cluster.url) as app:
            fill(app)
        terminal = Terminal("top", "--storage", cluster.url, "--interval", "200ms", cwd=tmp_path)
        terminals.append(terminal)
        terminal.wait_for("SAFE to take 1 more away")
        terminal.wait_for(r"reports +5")
        gone = cluster.leader()
        cluster.kill(gone)
        terminal.wait_for(rf"{re.escape(cluster.clients[gone])} +no answer")
        terminal.wait_for("TAKE NONE AWAY")
        terminal.wait_for(r"\d leader|leader +0")
        terminal.press("p")
        terminal.wait_for("Queue reports is paused")
        cluster.start(gone)
        terminal.wait_for("SAFE to take 1 more away")
        terminal.press("q")
        assert terminal.end() == 0


def test_one_answer_for_scripts(raftwork: Any, place: Path) -> None:
    answer = raftwork("top", "--storage", "raft:///jobs", "--json", "--interval", "100ms")
    assert answer.status == 0, answer.err
    assert {queue["name"]: queue["ready"] for queue in answer.json["queues"]} == {"bad": 0, "mail": 3, "reports": 5}
    assert all(queue["in_per_s"] == 0 for queue in answer.json["queues"]), "they are known"
    (member,) = answer.json["members"]
    assert (member["role"], member["ready"]) == ("leader", True)
    (failure,) = answer.json["failures"]
    assert failure["function"] == "shop.broken"
    assert answer.json["jobs"]["enqueued"] == 8
    plain = raftwork("top", "--storage", "raft:///jobs", "--once", "--interval", "100ms", "--sort", "name")
    assert plain.status == 0
    assert re.search(r"bad +0 +0.*\n.*mail +3 +0.*\n.*reports +5", plain.out)
    assert "[q]" not in plain.out
    assert "\x1b" not in plain.out


def test_wrong_usage(raftwork: Any, place: Path) -> None:
    for arguments, status, words in (
        (["--storage", "memory://", "--once"], 2, "where nobody else can look"),
        (["--storage", "raft:///jobs"], 2, "--once or --json"),
        (["--storage", "raft:///none", "--once"], 3, "There is no data directory"),
        (["--storage", "raft:///jobs", "--once", "--interval", "1ms"], 2, "--interval"),
        (["--storage", "raft:///jobs", "--once", "--sort", "size"], 2, "--sort"),
    ):
        answer = raftwork("top", *arguments)
        assert answer.status == status, answer.err
        assert words in answer.err


def test_rates_are_those_since_the_scene_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000]
    monkeypatch.setattr("raftwork.clock.now_ms", lambda: now[0])
    with Raftwork("shop", f"raft:///{tmp_path}/jobs") as app:
        task = app.task(name="shop.work", queue="mail")(work)
        task.enqueue(0)
        first = look(app, None)
        assert first.queues[0]["in_per_s"] is None
        app.enqueue_many(task.s(number) for number in range(10))
        now[0] += 2_000
        assert look(app, first).queues[0]["in_per_s"] == 5.0


def test_queues_sort_by_each_column() -> None:
    rows = [
        {"name": n, "ready": a, "running": b, "done_per_s": c} for n, a, b, c in [("b", 1, 3, None), ("a", 2, 1, 5.0)]
    ]
    assert [[row["name"] for row in sort_queues(rows, order)] for order in ("name", "ready", "running", "rate")] == [
        ["a", "b"], ["a", "b"], ["b", "a"], ["a", "b"],
    ]  # fmt: skip


def scene(queues: int = 30) -> Scene:
    queue = {
        **dict.fromkeys(("ready", "running", "scheduled", "retrying"), 1),
        **dict.fromkeys(("in_per_s", "done_per_s", "failed_per_s"), 1234.5),
        "oldest_s": 61,
        "paused": True,
        "reason": "bad \x1b[2J news",
    }
    return Scene(
        at_ms=1_000_000, storage="raft:///jobs", staleness_ms=None, verdict="", jobs={"enqueued": 3},
        members=[{"name": "n", "role": "leader", "lag": 0, "ready": True, "alarms": []}] * 5,
        queues=[{"name": f"q{number:02}", **queue} for number in range(queues)],
        failures=[{"id": "x", "function": "f", "finished_at": None, "error": "E"}] * 20,
    )  # fmt: skip


@pytest.mark.parametrize("height", [1, 2, 5, 8, 12, 20, 24, 40, 100])
@pytest.mark.parametrize("width", [1, 20, 80, 200])
def test_the_picture_fits_the_terminal(height: int, width: int) -> None:
    console = Console(width=width, height=height, force_terminal=True)
    picture = draw(scene(), Looks("name"), height=height, seen_s=9, error="RW319 gone", said="", interactive=True)
    lines = console.render_lines(picture)
    assert len(lines) <= max(height, 5), "title, counts, error and two lines of keys always stay"
    text = "\n".join("".join(part.text for part in line) for line in lines)
    assert "\x1b[2J" not in text, "a name does not steer the terminal"
    if height >= 24 and width >= 80:
        assert re.search(r"q00 +1 ", text)
        assert height > 60 or " more" in text
        assert "No answer for 9 s. RW319 gone" in text


def test_the_chosen_queue_stays_chosen(place: Path) -> None:
    looks, now = Looks("name"), scene(3)
    assert [row["name"] for row in looks.queues(now)] == ["q00", "q01", "q02"]
    assert looks.chosen == "q00"
    for by, expected in ((1, "q01"), (1, "q02"), (1, "q02"), (-1, "q01")):
        looks.move(now, by)
        assert looks.chosen == expected
    looks.queues(scene(1))
    assert looks.chosen == "q00", "the one that was chosen is gone"
    looks.move(Scene(0, "", None, ""), 1)


def test_an_answer_that_does_not_come_is_told_and_the_last_one_stays() -> None:
    answers: list[Any] = [scene(1), ClusterUnreachable("nobody"), scene(2)]
    asked = threading.Semaphore(0)
    go = threading.Semaphore(0)

    def ask(app: Raftwork, before: Scene | None) -> Scene:
        asked.release()
        assert go.acquire(timeout=PATIENCE_S)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    app = Raftwork("shop", "memory://")
    asker = Asker(app, 0.01, ask)
    asker.start()
    assert asked.acquire(timeout=PATIENCE_S)
    assert asker.scene is None
    go.release()
    assert asked.acquire(timeout=PATIENCE_S)
    assert asker.scene is not None
    go.release()
    assert asked.acquire(timeout=PATIENCE_S)
    assert "nobody" in asker.error
    assert len(asker.scene.queues) == 1
    asker.stop()
    go.release()
