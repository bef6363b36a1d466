"""`raftwork outbox`, and the relay inside a worker."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from outbox.conftest import Shop
from raftwork import Raftwork
from raftwork.cli import main
from support.command_line import start

PATIENCE_S = 60

SHOP = '''
"""The application of these tests."""

from raftwork import Raftwork

app = Raftwork("shop")


@app.task(name="ship")
def ship(number: int) -> int:
    """Works."""
    return number
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an application in it."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line here. Answers status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main.run(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def put(shop: Shop, *numbers: int) -> list[Any]:
    app = Raftwork("shop", "memory://")
    task: Any = app.task(name="ship")(ship)
    connection = shop.connect()
    jobs = [task.using(connection=connection).enqueue(number) for number in numbers]
    connection.commit()
    connection.close()
    return jobs


def ship(number: int) -> int:
    return number


def test_the_table_is_made_once_and_shown(run: Any, bare: Shop) -> None:
    status, out, _ = run("outbox", "create-table", bare.url, "--print")
    assert status == 0
    assert out.startswith("CREATE TABLE IF NOT EXISTS raftwork_outbox (")
    status, _, err = run("outbox", "status", bare.url)
    assert status == 3, "nothing was made"
    assert "RW901" in err
    for _ in range(2):
        assert run("outbox", "create-table", bare.url)[0] == 0
    assert bare.rows() == []
    for statement in out.split(";\n")[:-1]:
        bare.change(statement)  # What is printed is what was made.


def test_relay_once_status_retry_and_discard(run: Any, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = put(shop, 1, 2)
    monkeypatch.setenv("RAFTWORK_OUTBOX", shop.url)
    shop.change("UPDATE raftwork_outbox SET job = ? WHERE id = ?", b"\x01broken", str(second.id))
    status, out, _ = run("outbox", "status", "--json")
    assert (status, json.loads(out)["waiting"]) == (0, 2)
    assert "2 jobs wait, the oldest since" in run("outbox", "status")[1]
    status, out, _ = run("outbox", "relay", "--once", "--json")
    assert (status, json.loads(out)["relayed"]) == (0, 2)
    status, out, _ = run("jobs", "--json")
    assert [job["id"] for job in json.loads(out)["jobs"]] == [str(first.id)]
    answer = json.loads(run("outbox", "status", "--json")[1])
    assert answer["waiting"] == 0
    assert [(job["id"], job["function"]) for job in answer["refused"]] == [(str(second.id), "ship")]
    assert "RW802" in run("outbox", "status")[1]
    assert run("outbox", "retry")[0] == 2
    assert run("outbox", "retry", str(second.id), "--all")[0] == 2
    assert run("outbox", "retry", str(first.id))[0] == 4
    assert json.loads(run("outbox", "retry", "--all", "--json")[1])["changed"] == 1
    assert run("outbox", "relay", "--once")[0] == 0
    assert run("outbox", "discard", str(second.id))[0] == 0
    assert shop.rows() == []


def test_wrong_usage(run: Any, place: Path, shop: Shop) -> None:
    for arguments, status, words in (
        (["status"], 2, "There is no outbox"),
        (["status", "mysql://a/b"], 2, "no database that has an outbox"),
        (["relay", shop.url, "--storage", "memory://"], 2, "this process only"),
        (["relay", shop.url, "--batch", "0"], 2, "--batch"),
        (["relay", shop.url, "--poll", "soon"], 2, "poll"),
        (["relay", f"sqlite:///{place}/none.db"], 3, "There is no database"),
    ):
        answer = run("outbox", *arguments)
        assert answer[0] == status, answer
        assert words in answer[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_relay_process_runs_until_it_is_told_to_stop(place: Path, shop: Shop, number: signal.Signals) -> None:
    jobs = put(shop, 1, 2, 3)
    with start("outbox", "relay", shop.url, "--json", "--poll", "10ms", cwd=place) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "relay.started"
        with Raftwork("shop", f"raft:///{place}/.raftwork") as app:
            jobs += put(shop, 4)
            while shop.rows():
                assert process.poll() is None
            assert {info.id for info in app.jobs()} == {job.id for job in jobs}
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, out + err


@pytest.mark.parametrize("named", [True, False], ids=["url", "setting"])
def test_a_worker_relays_too(place: Path, shop: Shop, named: bool) -> None:
    (job,) = put(shop, 7)
    environment = {} if named else {"RAFTWORK_OUTBOX": shop.url}
    with start(
        "worker", "shop:app", "--outbox", shop.url if named else "setting", "--json", cwd=place, **environment
    ) as process:
        try:
            with Raftwork("shop", f"raft:///{place}/.raftwork") as app:
                while shop.rows():
                    assert process.poll() is None
                assert app.job(job.id).result(timeout=PATIENCE_S) == 7
        finally:
            process.terminate()
            out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, out + err
