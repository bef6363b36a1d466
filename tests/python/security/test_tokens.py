"""Tokens: what each capability allows, through the front door; revoking, expiring, replacing; where they never show."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.machine import Page, build
from raftwork import AccessDenied, ConfigError, Overloaded, Raftwork, chain
from raftwork.cli.orders import LIST_TOKENS
from raftwork.job_info import JobState
from raftwork.storage.base import LinesStanding
from support.founded import Founded, attempt, command

IN_FORCE_S = 1.0
"""How long a revocation may take."""


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Founded]:
    with Founded(tmp_path_factory.mktemp("tokens"), nodes=3) as founded:
        yield founded


def client(founded: Founded, token: str) -> Raftwork:
    app = Raftwork("shop", storage=founded.url, tls_ca=founded.ca, token=token, submit_timeout="20s")

    @app.task(name="shop.mail", queue="mail")
    def mail() -> str:
        return "sent"

    @app.task(name="shop.other", queue="other")
    def other() -> None: ...

    @app.task(name="shop.print", queue="mail")
    def print_out(text: str) -> None: ...

    return app


def enqueue(app: Raftwork, queue: str) -> Any:
    return app.tasks["shop.mail" if queue == "mail" else "shop.other"].enqueue()


def claim(app: Raftwork, queue: str) -> None:
    storage: Any = app.storage
    session = storage.open_session("worker")
    storage.claim(session, [(queue, 1)], strict=False, functions=["nobody.knows"], max=1)


def lock(app: Raftwork, name: str) -> None:
    with app.lock(name, timeout=20):
        pass


def permit(app: Raftwork, name: str) -> None:
    with app.semaphore(f"{name}.permit", 2, timeout=20):
        pass


def batch(app: Raftwork) -> None:
    app.batch("month-end").open().seal()


VERBS: dict[str, Callable[[Raftwork], Any]] = {
    "enqueue mail": lambda app: enqueue(app, "mail"),
    "enqueue other": lambda app: enqueue(app, "other"),
    "claim mail": lambda app: claim(app, "mail"),
    "claim other": lambda app: claim(app, "other"),
    "lock mail": lambda app: lock(app, "mail"),
    "lock other": lambda app: lock(app, "other"),
    "lock permit": lambda app: permit(app, "other"),
    "locks": lambda app: app.locks(),
    "batch": batch,
    "end batch": lambda app: app.storage.cancel_batch(b"\1" * 16),
    "counts": lambda app: app.storage.counts(),
    "queues": lambda app: app.storage.queues(),
    "health": lambda app: app.storage.health(),
    "lines": lambda app: app.storage.run_lines(b"\1" * 16, 2**40, 1),
    "pause": lambda app: app.storage.pause_queue("spare", None, ""),
    "resume": lambda app: app.storage.resume_queue("spare"),
    "cancel": lambda app: app.storage.cancel([b"\1" * 16], ""),
    "requeue": lambda app: app.storage.requeue([b"\1" * 16]),
    "delete": lambda app: app.storage.delete([b"\1" * 16]),
    "move": lambda app: app.storage.move([b"\1" * 16], "spare"),
    "priority": lambda app: app.storage.set_priority([b"\1" * 16], 1),
    "tokens": lambda app: app.storage.order(LIST_TOKENS),
    "members": lambda app: app.storage.order(1),
}

ALLOWED = {
    "enqueue:mail": {"enqueue mail", "batch"},
    "enqueue:*": {"enqueue mail", "enqueue other", "batch"},
    "work:mail": {"claim mail"},
    "work:*": {"claim mail", "claim other"},
    "lock:mail": {"lock mail"},
    "lock:*": {"lock mail", "lock other", "lock permit"},
    "read": {"locks", "counts", "queues", "health", "lines", "members"},
    "operate": {"batch", "end batch", "pause", "resume", "cancel", "requeue", "delete", "move", "priority"},
    "admin": {"tokens"},
}

NEEDS = {
    "enqueue": "enqueue:",
    "batch": "enqueue:",
    "end": "operate",
    "claim": "work:",
    "lock": "lock:",
    "locks": "read",
    "tokens": "admin",
    "pause": "operate",
    "counts": "read",
    "lines": "read",
}


@pytest.mark.parametrize("capability", ALLOWED)
def test_a_token_allows_what_it_says_and_nothing_else(founded: Founded, capability: str) -> None:
    """Row 3: the matrix of capabilities and verbs."""
    name = "m-" + capability.replace(":", "-").replace("*", "all")
    with client(founded, founded.make_token(name, capability)) as app:
        for verb, call in VERBS.items():
            if verb in ALLOWED[capability]:
                call(app)
                continue
            with pytest.raises(AccessDenied) as denied:
                call(app)
            assert denied.value.principal == f"token/{name}"
            assert denied.value.capability in str(denied.value)
            word = verb.partition(" ")[0]
            assert denied.value.capability.startswith(NEEDS.get(word, "")), (verb, denied.value.capability)


def test_members_ask_each_other_for_log_lines_under_their_certificates(founded: Founded) -> None:
    with client(founded, founded.token) as app:
        # One that could not be asked would be named: `UNREACHABLE`.
        assert app.storage.run_lines(b"\1" * 16, 2**40, 1).standing is LinesStanding.NOT_CONNECTED


def test_the_first_token_allows_everything(founded: Founded) -> None:
    with client(founded, founded.token) as app:
        for call in VERBS.values():
            call(app)


def test_a_worker_runs_with_the_rights_that_it_needs(founded: Founded) -> None:
    with client(founded, founded.make_token("worker", "work:mail", "enqueue:mail", "read")) as app:
        job = app.tasks["shop.mail"].enqueue()
        with app.running(workers=["mail"]):
            assert job.result(timeout=30) == "sent"


def test_results_are_passed_on_by_whoever_may_read_them(founded: Founded) -> None:
    """Row 3: who works a queue gets no results of another one by enqueueing jobs that take them."""
    with client(founded, founded.token) as app:
        secret = app.tasks["shop.other"].enqueue()
    with client(founded, founded.make_token("curious", "enqueue:mail", "work:mail")) as app:
        print_out = app.tasks["shop.print"]
        for take in (
            lambda: print_out.enqueue(app.job(secret.id).output),
            lambda: chain(app.tasks["shop.mail"].s(), print_out).enqueue(),
        ):
            with pytest.raises(AccessDenied) as denied:
                take()
            assert denied.value.capability == "read"
        print_out.using(after=app.job(secret.id)).enqueue("that it ended")
    with client(founded, founded.make_token("reader", "enqueue:mail", "read")) as app:
        app.tasks["shop.print"].enqueue(app.job(secret.id).output)


def test_a_session_is_its_owners_alone(founded: Founded) -> None:
    with client(founded, founded.make_token("victim", "work:*")) as app:
        storage: Any = app.storage
        session = storage.open_session("worker")
        with client(founded, founded.make_token("thief", "work:*", "enqueue:*", "operate", "read")) as other:
            thief: Any = other.storage
            for call in (
                lambda: thief.claim(session, [("mail", 1)], strict=False, functions=["shop.mail"], max=1),
                lambda: thief.close_session(session),
            ):
                with pytest.raises(AccessDenied, match="not its own"):
                    call()
        storage.claim(session, [("mail", 1)], strict=False, functions=["nobody.knows"], max=1)


def test_a_revoked_token_is_of_no_use_within_a_second_on_every_node(founded: Founded) -> None:
    token = founded.make_token("stolen", "enqueue:*", "read")
    ports = [int(listen.rpartition(":")[2]) + 1 for listen in founded.listen]
    apps = [
        Raftwork("shop", storage=f"raftwork://127.0.0.1:{port}", tls_ca=founded.ca, token=token, submit_timeout="5s")
        for port in ports
    ]
    for app in apps:
        app.open()
        app.storage.counts()
    with client(founded, founded.token) as admin:
        storage: Any = admin.storage
        assert storage.order(21, "stolen") == 1
        revoked = time.monotonic()
        waiting = list(apps)
        while waiting:
            for app in list(waiting):
                try:
                    app.storage.counts()
                except AccessDenied:
                    waiting.remove(app)
            assert time.monotonic() - revoked < 10 * IN_FORCE_S
        took = time.monotonic() - revoked
    assert took < IN_FORCE_S + 2.0, f"{took:.2f} s, with the second between two tries to connect"
    for app in apps:
        app.close()


def test_a_token_expires_by_the_clusters_time(founded: Founded) -> None:
    with client(founded, founded.make_token("short", "read", expires="3s")) as app:
        app.storage.counts()
        until = time.monotonic() + 20
        with pytest.raises(AccessDenied, match="has expired"):
            while time.monotonic() < until:
                app.storage.counts()


def test_a_client_whose_clock_is_wrong_is_told_so_and_its_time_counts_for_nothing(
    founded: Founded, tmp_path: Path
) -> None:
    """Row 12: certificates are the one thing that it judges by its own clock."""
    page = Page(tmp_path / "page")
    machine = page.environment(build(tmp_path))
    known = {"RAFTWORK_STORAGE": founded.url, "RAFTWORK_TLS_CA": founded.ca, "RAFTWORK_TOKEN": founded.token}
    for year, words in [("1970", "is not valid yet"), ("2100", "has expired")]:
        page.jump(year)
        status, _, err = attempt("status", at=tmp_path, **known, **machine)
        assert status == 3, err
        assert "RW314" in err and f"the other side's certificate {words}" in err, err
        assert "compare the clocks of both machines" in err
    page.jump("+1d")
    (tmp_path / "shop.py").write_text(LATE)
    id = command("enqueue", "--app", "shop:app", "late", "--delay", "1h", at=tmp_path, **known, **machine)["id"]
    with client(founded, founded.token) as app:
        info = app.job(id).info()
    now = datetime.now(UTC)
    assert info.run_at is not None
    assert now - timedelta(minutes=5) < info.created_at <= now
    assert timedelta(minutes=55) < info.run_at - now <= timedelta(hours=1)
    page.close()


LATE = """
from raftwork import Raftwork

app = Raftwork("shop")


@app.task
def late() -> None: ...
"""


def test_a_new_token_takes_the_place_of_an_old_one_with_an_overlap(founded: Founded) -> None:
    old = founded.make_token("rolling", "read")
    new = founded.make_token("rolling", "read", overlap="4s")
    with client(founded, old) as before, client(founded, new) as after:
        before.storage.counts()
        after.storage.counts()
        until = time.monotonic() + 20
        with pytest.raises(AccessDenied):
            while time.monotonic() < until:
                before.storage.counts()
        after.storage.counts()
    rows = command("cluster", "token", "list", at=founded.at(1))
    assert [row["capabilities"] for row in rows if row["name"] == "rolling"] == [["read"]] * 2
    assert not any(text in json.dumps(rows) for text in (old, new))


def test_nobody_gets_in_without_a_token_or_with_a_wrong_one(founded: Founded, tmp_path: Path) -> None:
    strange = "rwt1." + "A" * 43 + "A" * 5
    status, _, err = attempt("status", "--storage", founded.url, at=tmp_path, RAFTWORK_TLS_CA=founded.ca)
    assert (status, "TLS needs all three" in err) == (2, True)
    status, _, err = attempt(
        "status", "--storage", founded.url, at=tmp_path, RAFTWORK_TLS_CA=founded.ca, RAFTWORK_TOKEN=strange
    )
    assert (status, "damaged" in err, strange in err) == (2, True, False), err
    with Founded(tmp_path) as other, pytest.raises(AccessDenied, match="not one of the cluster's"):
        client(founded, other.token).open()
    status, _, err = attempt("status", "--storage", founded.url, at=tmp_path, RAFTWORK_TOKEN=founded.token)
    assert status == 3, "a plain client gets nowhere at a port with TLS"


def test_a_token_is_shown_nowhere(founded: Founded, tmp_path: Path) -> None:
    """Row 18: neither by doctor, nor in representations, nor in what a node logs and tells."""
    token = founded.token
    settings = {"RAFTWORK_TLS_CA": founded.ca, "RAFTWORK_TOKEN": token}
    url = ("--storage", founded.url)
    for words in (("doctor",), ("status",), ("cluster", "status"), ("cluster", "token", "list"), ("cluster", "audit")):
        status, out, err = attempt(*words, *url, at=tmp_path, **settings)
        assert status in (0, 3), err
        assert token not in out + err, words
    with client(founded, token) as app:
        assert token not in repr(app) + repr(app.storage) + repr(app.config) + repr(app.storage.sessions())
        assert token not in json.dumps(app.storage.health())
    with pytest.raises(ConfigError) as refused:
        Raftwork("shop", storage=f"raftwork://127.0.0.1:1?token={token}").open()
    assert token not in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        Raftwork("shop", token=token[1:])
    assert token[1:] not in str(refused.value)


def test_a_file_of_a_token_is_its_owners_alone(founded: Founded, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(founded.token + "\n")
    path.chmod(0o644)
    settings = {"RAFTWORK_TLS_CA": founded.ca, "RAFTWORK_TOKEN_FILE": str(path)}
    status, _, err = attempt("status", "--storage", founded.url, at=tmp_path, **settings)
    assert (status, f"chmod 600 {path}" in err) == (2, True)
    path.chmod(0o600)
    assert command("status", "--storage", founded.url, at=tmp_path, **settings)["health"]["cluster"] == founded.cluster


def test_the_name_of_a_job_is_only_a_name(founded: Founded) -> None:
    """Row 2: a worker looks the name up among its tasks, and imports nothing."""
    attacker = Raftwork("attacker", storage=founded.url, tls_ca=founded.ca, token=founded.make_token("a", "enqueue:*"))

    @attacker.task(name="os.system", queue="mail")
    def system(command: str) -> None: ...

    with attacker, client(founded, founded.token) as app:
        planted = system.enqueue("true")
        with app.running(workers=["mail"]):
            assert app.tasks["shop.mail"].enqueue().result(timeout=30) == "sent"
            info = app.job(planted.id).info()
        assert (info.state, info.attempt) == (JobState.ENQUEUED, 0)


def test_a_client_that_floods_is_told_and_others_are_served(tmp_path: Path) -> None:
    """Row 11: beyond its rate it gets Overloaded, definitely not done; another client notices nothing."""
    with Founded(tmp_path, settings={"RAFTWORK_CLIENT_RATE": "20"}) as founded:
        flooding = client(founded, founded.make_token("flood", "enqueue:*", "read"))
        other = client(founded, founded.make_token("other", "read"))
        with other:
            flooding.open()
            stored = 0
            with pytest.raises(Overloaded, match="client_rate"):
                for _ in range(1_000):
                    enqueue(flooding, "mail")
                    stored += 1
            assert 10 <= stored < 500
            assert other.storage.counts()["enqueued"] == stored
            flooding.close()  # Its last words find no room either; it ends by itself.


def test_a_change_of_many_jobs_is_kept_with_whose_token_it_was(founded: Founded) -> None:
    with client(founded, founded.make_token("night-shift", "enqueue:mail", "operate", "read")) as app:
        jobs = [enqueue(app, "mail") for _ in range(3)]
        assert app.bulk(f"id:{jobs[0].id},{jobs[1].id}").cancel("outage").changed == 2
    acts = [act for act in command("cluster", "audit", at=founded.at(1)) if act["actor"] == "token/night-shift"]
    assert [act["what"] for act in acts] == ["jobs.cancel"]
    assert "2 of 2 jobs changed" in acts[0]["about"]
    assert str(jobs[0].id) in acts[0]["about"]
