"""`raftwork cluster init | invite | join | renew`: three nodes by commands alone, and who is not let in on the way."""

import base64
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftwork import Raftwork
from support.founded import Founded, attempt, command


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Founded]:
    with Founded(tmp_path_factory.mktemp("founded"), nodes=3) as founded:
        yield founded


def members(founded: Founded) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = command("cluster", "members", at=founded.at(0))
    return found


def test_three_nodes_come_up_by_commands_alone(founded: Founded) -> None:
    assert [member["role"] for member in members(founded)] == ["voter"] * 3
    assert sorted(member["raft"] for member in members(founded)) == sorted(founded.listen)
    health = command("status", at=founded.at(2))["health"]
    assert (health["protection"], health["cluster"]) == ("tls", founded.cluster)


def test_keys_tokens_and_settings_are_their_owners_alone(founded: Founded) -> None:
    for number in range(3):
        at = founded.at(number)
        for directory in (at, at / "pki", at / "data"):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory
        files = [at / "raftwork.toml", *(at / "pki").iterdir()]
        assert {path: oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == dict.fromkeys(files, "0o600")
    assert [(founded.at(number) / "pki" / "ca.key").exists() for number in range(3)] == [True, False, False]


def test_the_data_directory_holds_no_secret(founded: Founded) -> None:
    """Rows 15 and 18: neither a token, nor a key, nor an invitation."""
    token, invitation = founded.make_token("grep", "read"), founded.invite()
    secrets = [founded.token.encode(), token.encode(), invitation.encode()]
    raw = [
        base64.urlsafe_b64decode(text[5:] + "=" * (-len(text[5:]) % 4)) for text in (token, invitation, founded.token)
    ]
    secrets += [raw[0][:32], raw[1][:16], raw[2][:32]]
    for number in range(3):
        command("cluster", "snapshot", at=founded.at(number))
        files = [path for path in (founded.at(number) / "data").rglob("*") if path.is_file()]
        assert len(files) > 3
        for path in files:
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path
            assert b"PRIVATE KEY" not in content
        assert not any(secret.decode() in founded.log(number) for secret in secrets[:3])


def test_an_invitation_is_good_once(founded: Founded, tmp_path: Path) -> None:
    invitation = founded.invite("--client", "desk")
    joined = command("cluster", "join", invitation, str(tmp_path / "one"), at=tmp_path)
    assert (joined["role"], joined["cluster"]) == ("client/desk", founded.cluster)
    assert command("status", at=tmp_path / "one")["health"]["cluster"] == founded.cluster
    status, _, err = attempt("cluster", "join", invitation, str(tmp_path / "two"), at=tmp_path)
    assert (status, "is used already" in err, (tmp_path / "two").exists()) == (3, True, False)
    # The client of a certificate may do everything but change the cluster.
    status, _, err = attempt("cluster", "token", "list", at=tmp_path / "one")
    assert (status, "client/desk lacks the capability admin" in err) == (3, True)


def test_an_invitation_of_another_cluster_is_not_shown_to_this_one(founded: Founded, tmp_path: Path) -> None:
    with Founded(tmp_path) as other:
        foreign = other.invite()
        other.close()
        # Where the other cluster was, this one listens now: an attacker who took its address.
        port = int(other.listen[0].rpartition(":")[2]) + 1
        with Relay(port, int(founded.listen[0].rpartition(":")[2]) + 1):
            status, _, err = attempt("cluster", "join", foreign, str(tmp_path / "joiner"), at=tmp_path)
    assert status == 3
    assert "not signed by the authority" in err, err


def test_a_node_without_the_key_says_where_it_is_needed(founded: Founded) -> None:
    status, _, err = attempt("cluster", "invite", at=founded.at(1))
    assert (status, "ca.key is not there" in err) == (2, True), err


def test_a_directory_is_not_founded_twice(founded: Founded, tmp_path: Path) -> None:
    status, _, err = attempt("cluster", "init", str(founded.at(0)), at=tmp_path)
    assert (status, "has a raftwork.toml already" in err) == (2, True)
    (tmp_path / "open" / "pki").mkdir(parents=True)
    (tmp_path / "open" / "pki").chmod(0o755)
    status, _, err = attempt("cluster", "init", str(tmp_path / "open"), at=tmp_path)
    assert (status, "is open to others" in err) == (2, True), err


def test_certificates_are_renewed_under_load_and_nothing_restarts(founded: Founded) -> None:
    """Row 4: a stolen key is of use until the next renewal; that costs nobody a connection or a job."""
    before = [(founded.at(number) / "pki" / "node.pem").read_bytes() for number in range(3)]
    pids = {number: process.pid for number, process in founded.processes.items()}
    app = Raftwork("load", storage=founded.url, tls_ca=founded.ca, token=founded.token)

    @app.task(name="load.nothing")
    def nothing(number: int) -> None: ...

    stop, stored, errors = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            try:
                stored.append(nothing.enqueue(len(stored)).id)
            except Exception as error:
                errors.append(error)
                return

    with app:
        thread = threading.Thread(target=load)
        thread.start()
        for _ in range(3):
            for number in range(3):
                assert command("cluster", "renew", at=founded.at(number))["expires_at"]
        health = command("cluster", "status", at=founded.at(0), RAFTWORK_MEMBERS=",".join(founded.listen))
        stop.set()
        thread.join()
        assert (errors, health["problems"]) == ([], [])
        assert len(stored) > 50
        assert app.storage.counts()["enqueued"] >= len(stored)
    after = [(founded.at(number) / "pki" / "node.pem").read_bytes() for number in range(3)]
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert all(
        founded.processes[number].pid == pid and founded.processes[number].poll() is None
        for number, pid in pids.items()
    )
    # The new ones are in use: a node that starts now is let in by all others.
    founded.processes[2].terminate()
    founded.processes[2].communicate(timeout=60)
    founded.begin(2)
    assert [member["role"] for member in members(founded)] == ["voter"] * 3


def test_what_was_done_is_told_with_who_did_it(founded: Founded) -> None:
    acts = command("cluster", "audit", at=founded.at(1))
    told = [(act["actor"], act["what"]) for act in acts]
    assert ("founder", "token.put") in told
    assert ("local", "invitation.put") in told
    assert ("invitation", "invitation.use") in told


def test_acts_of_operators_on_one_node_are_told_with_who_asked(founded: Founded, tmp_path: Path) -> None:
    admin = {"RAFTWORK_TLS_CA": founded.ca, "RAFTWORK_TOKEN": founded.make_token("on-call", "admin", "read")}
    before = len(command("cluster", "audit", at=founded.at(1)))
    url = ("--storage", founded.url)
    command("cluster", "snapshot", *url, at=tmp_path, **admin)
    command("cluster", "backup", str(tmp_path / "shop.rwb"), *url, at=tmp_path, **admin)
    command("cluster", "transfer-leader", *url, at=tmp_path, **admin)
    command("cluster", "renew", at=founded.at(1))
    acts = command("cluster", "audit", at=founded.at(1))[before:]
    told = [(act["actor"], act["what"]) for act in acts]
    by_token = [("token/on-call", what) for what in ("snapshot.take", "backup.make", "leader.transfer")]
    assert told == [*by_token, ("local", "certificate.renew")], acts
    assert "good for 89 days" in acts[-1]["about"]


class Relay:
    """Passes connections at one port on to another."""

    def __init__(self, port: int, to: int) -> None:
        code = (
            "import socket, threading, sys\n"
            "def move(a, b):\n"
            "    try:\n"
            "        while data := a.recv(65536): b.sendall(data)\n"
            "    except OSError: pass\n"
            "    for s in (a, b):\n"
            "        try: s.shutdown(2)\n"
            "        except OSError: pass\n"
            "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
            "print('on', flush=True)\n"
            "while True:\n"
            "    a = s.accept()[0]; b = socket.create_connection(('127.0.0.1', int(sys.argv[2])))\n"
            "    for pair in ((a, b), (b, a)): threading.Thread(target=move, args=pair, daemon=True).start()\n"
        )
        self.process = subprocess.Popen([sys.executable, "-c", code, str(port), str(to)], stdout=subprocess.PIPE)

    def __enter__(self) -> "Relay":
        assert self.process.stdout is not None
        assert self.process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
