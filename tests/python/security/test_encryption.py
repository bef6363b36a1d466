"""Encrypted payloads in a cluster: what three nodes, snapshots and a backup hold, and who reads it after a restore."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raftwork import Job, JobContext, JobFailed, JobInfo, KeyMissing, Limit, Raftwork, Retry, Secret, Unique
from raftwork.testing.cluster import Cluster
from support.founded import command

WORD = "tangerine"
"""Part of all that the jobs are given and say."""
WAIT_S = 60
KEY, OTHER = (f"{id}:{base64.b64encode(id.encode() * 8).decode()}" for id in ("2026", "2025"))


@dataclass
class Vault:
    """An application with keys, and its tasks."""

    app: Raftwork
    tell: Any
    fail: Any
    join: Any
    pay: Any


def vault(url: str, keys: str | None = KEY) -> Vault:
    app = Raftwork("vault", url, encryption_keys=keys, queue="now")

    @app.task(name="tell", unique=Unique("{text}"), limit=Limit(9, per="text"))
    def tell(ctx: JobContext, text: str) -> str:
        ctx.save({"state": text})
        ctx.progress(1, 2, f"note {text}")
        ctx.step("step", str.title, text)
        return f"result {text}"

    @app.task(name="fail", retry=Retry(1))
    def fail(ctx: JobContext, text: str) -> None:
        ctx.log(f"line {text}")
        raise ValueError(f"message {text}")

    @app.task(name="join")
    def join(texts: list[str]) -> str:
        return " and ".join(texts)

    @app.task(name="pay")
    def pay(token: Secret[str]) -> int:
        return len(token.reveal())

    return Vault(app, tell, fail, join, pay)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def files_with(directory: Path, word: str) -> list[str]:
    """The files anywhere below that have the word in them."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [str(path.relative_to(directory)) for path in files if word.encode() in path.read_bytes()]


def in_clear(directory: Path) -> list[str]:
    """The files that have the word in them, in one of the forms that the jobs gave it."""
    return [file for word in (WORD, WORD.title(), WORD.upper()) for file in files_with(directory, word)]


def run_some(url: str) -> dict[str, Job[Any]]:
    """Jobs of which some have run and the others, in a queue that nobody serves, wait."""
    own = vault(url)
    with own.app.running(workers={"now": 2}):
        jobs = {"told": own.tell.enqueue(WORD), "failed": own.fail.enqueue(WORD)}
        jobs["waits"] = own.tell.using(queue="later").enqueue(f"late {WORD}")
        jobs["joins"] = own.join.using(queue="later").enqueue([jobs["told"].output, jobs["waits"].output])
        jobs["pays"] = own.pay.using(queue="later").enqueue(Secret(WORD))
        with own.app.batch("month-end", on_complete=own.join.using(queue="later").s([WORD.upper()])):
            own.tell.using(queue="later", delay="1s").enqueue(f"member {WORD}")
        assert jobs["told"].result(WAIT_S) == f"result {WORD}"
        with pytest.raises(JobFailed, match=f"message {WORD}"):
            jobs["failed"].result(WAIT_S)
    return jobs


def run_rest(url: str, ids: dict[str, bytes]) -> dict[str, JobInfo]:
    """Run what waits; what is known about each job then."""
    own = vault(url, f"{OTHER},{KEY}")  # Another key encrypts now, and the old one still opens.
    with own.app.running(workers={"now": 2, "later": 2}):
        for name in ("waits", "joins", "pays"):
            own.app.job_wait(ids[name], WAIT_S)
        return {name: own.app.job(id).info() for name, id in ids.items()}


def test_nothing_in_clear_is_on_three_nodes_or_in_a_backup_and_all_of_it_is_there(
    tmp_path: Path, cluster: Cluster
) -> None:
    ids = {name: job.id.bytes for name, job in run_some(cluster.url).items()}
    for clients in cluster.clients:
        command("cluster", "snapshot", "--storage", f"raftwork://{clients}", at=tmp_path)
    command("cluster", "backup", "vault.rwb", "--storage", cluster.url, at=tmp_path)
    for number in range(3):
        assert any((cluster.data(number) / "snap").iterdir())
        assert files_with(cluster.data(number), "later"), "names of queues are readable, so this is where jobs are"
    cluster.stop()
    assert in_clear(tmp_path) == []
    assert files_with(tmp_path, base64.b64encode(WORD.encode()).decode()[:8]) == []

    command("cluster", "restore", "vault.rwb", "--data", "restored", at=tmp_path)
    url = f"raft:///{tmp_path}/restored"
    blind = vault(url, None)
    with blind.app, pytest.raises(KeyMissing, match="2026"):
        blind.app.job(ids["told"]).result(WAIT_S)
    found = run_rest(url, ids)
    assert found["told"].result == f"result {WORD}"
    assert found["failed"].error is not None
    assert found["failed"].error.message == f"message {WORD}"
    assert found["waits"].result == f"result late {WORD}"
    assert found["joins"].result == f"result {WORD} and result late {WORD}"
    assert found["pays"].result == len(WORD)
    assert in_clear(tmp_path) == []


def test_the_search_finds_what_an_application_without_keys_stores(tmp_path: Path, cluster: Cluster) -> None:
    """That nothing is found above is worth as much as this."""
    own = vault(cluster.url, None)
    with own.app:
        own.tell.using(queue="later").enqueue(WORD)
    command("cluster", "snapshot", "--storage", cluster.url, at=tmp_path)
    command("cluster", "backup", "vault.rwb", "--storage", cluster.url, at=tmp_path)
    cluster.stop()
    found = in_clear(tmp_path)
    assert {name.split("/")[0] for name in found} == {"node-0", "node-1", "node-2", "vault.rwb"}
