"""`raftwork doctor` and `raftwork bench`."""

import base64
import importlib
from pathlib import Path
from typing import Any

import pytest


def test_doctor_says_where_settings_come_from(raftwork: Any, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "raftwork.toml").write_text('queue = "mail"\n')
    monkeypatch.setenv("RAFTWORK_MAX_CRASHES", "5")
    answer = raftwork("doctor", "--json")
    assert answer.status == 0
    places = {row["name"]: row["from"] for row in answer.json["settings"]}
    assert places["queue"].endswith("raftwork.toml")
    assert places["max_crashes"] == "environment RAFTWORK_MAX_CRASHES"
    assert places["timeout"] == "default"
    assert "fdatasync" in raftwork("doctor").out


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:s3cret@host/db", "postgresql://ann@host/db"),
        ("postgresql://host/db?user=ann&password=s3cret", "postgresql://ann@host/db"),
        ("postgresql://ann:pa/s3cret@host/db", "***"),
        ("sqlite:///shop.db", "sqlite:///shop.db"),
    ],
)
def test_doctor_shows_the_outbox_without_its_password(
    raftwork: Any, shop: Path, monkeypatch: pytest.MonkeyPatch, url: str, shown: str
) -> None:
    monkeypatch.setenv("RAFTWORK_OUTBOX", url)
    told, answer = raftwork("doctor"), raftwork("doctor", "--json")
    assert {row["name"]: row["value"] for row in answer.json["settings"]}["outbox"] == shown
    assert shown in told.out
    assert not any("s3cret" in said for said in (told.out, told.err, answer.out, answer.err))


KEYS = {id: base64.b64encode(id.encode() * 8).decode() for id in ("2026", "2025")}


def test_doctor_says_which_keys_encrypt_and_decrypt_and_never_shows_them(
    raftwork: Any, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert raftwork("doctor", "--json").json["keys"] is None
    file = shop / "payload.keys"
    file.write_text("".join(f"{id}:{key}\n" for id, key in KEYS.items()))
    file.chmod(0o600)
    monkeypatch.setenv("RAFTWORK_ENCRYPTION_KEY_FILE", "payload.keys")
    told, answer = raftwork("doctor"), raftwork("doctor", "--json")
    assert told.status == answer.status == 0, answer.err
    assert answer.json["keys"] == {
        "from": "encryption_key_file",
        "file": str(file),
        "usable": True,
        "encrypts": "2026",
        "ids": ["2026", "2025"],
        "problem": None,
    }
    assert "encrypts: 2026" in told.out
    assert "decrypts: 2026, 2025" in told.out
    assert not any(key in said for key in KEYS.values() for said in (told.out, told.err, answer.out, answer.err))


def test_doctor_says_why_keys_cannot_be_used(raftwork: Any, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shop / "payload.keys"
    monkeypatch.setenv("RAFTWORK_ENCRYPTION_KEY_FILE", str(file))

    def problem() -> str:
        told, answer = raftwork("doctor"), raftwork("doctor", "--json")
        keys = answer.json["keys"]
        assert told.status == answer.status == 2
        assert (keys["usable"], keys["ids"], keys["encrypts"]) == (False, [], None)
        assert f"Problem: {keys['problem']}" in told.out
        assert KEYS["2026"][:20] not in told.out + answer.out
        found: str = keys["problem"]
        return found

    assert "No such file" in problem()
    file.write_text(f"2026:{KEYS['2026']}\n")
    file.chmod(0o644)
    assert "chmod 600" in problem()
    file.chmod(0o600)
    assert raftwork("doctor").status == 0
    file.write_text(f"2026:{KEYS['2026'][:20]}\n")
    assert "the key '2026' is not 32 bytes in base64" in problem()
    file.write_text("# nothing\n")
    assert "has no key" in problem()
    file.write_text(f"2026:{KEYS['2026']}\n")
    monkeypatch.setenv("RAFTWORK_ENCRYPTION_KEYS", f"2026:{KEYS['2026']}")
    assert "both set" in problem()


def test_doctor_finds_a_changed_byte_and_salvages_on_request(raftwork: Any, shop: Path) -> None:
    module = importlib.import_module("shop")
    module.app.enqueue_many(module.send_welcome.s(number) for number in range(20))
    for number in range(20):
        module.send_welcome.enqueue(number)
    module.app.close()
    assert raftwork("doctor").status == 0
    log = max((shop / ".raftwork").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(log.read_bytes())
    used = len(content.rstrip(b"\0"))
    content[used // 2] ^= 1
    log.write_bytes(content)
    refused = raftwork("status")
    assert refused.status == 3
    assert refused.err.startswith("RW312 ")
    assert "raftwork doctor" in refused.err
    assert raftwork("doctor").status == 3
    assert raftwork("doctor", "--salvage").status == 2
    assert raftwork("doctor", "--salvage", "--yes").status == 0
    assert raftwork("doctor").status == 0
    status = raftwork("status")
    assert status.status == 3
    assert "work was lost: a salvage gave up every write behind log entry" in status.out


def test_doctor_describes_the_directory_and_says_who_uses_it(raftwork: Any, shop: Path) -> None:
    module = importlib.import_module("shop")
    module.send_welcome.enqueue(1)
    data = raftwork("doctor", "--json").json["data"]
    assert data["healthy"]
    assert data["in_use_by"].startswith("process ")
    assert data["start"] is None
    module.app.close()
    data = raftwork("doctor", "--json").json["data"]
    assert data["in_use_by"] is None
    assert data["start"] == {"possible": True, "reason": None}
    assert data["archive"]["present"]
    assert [snapshot["whole"] for snapshot in data["snapshots"]] == [True]
    assert len(data["identity"]["cluster"]) == 36
    told = raftwork("doctor").out
    assert data["identity"]["cluster"] in told
    assert str(data["snapshots"][0]["index"]) in told


def test_doctor_gives_up_the_state_only_when_told_to(raftwork: Any, shop: Path) -> None:
    module = importlib.import_module("shop")
    module.send_welcome.enqueue(1)
    module.app.close()
    for path in [*(shop / ".raftwork" / "snap").iterdir(), *(shop / ".raftwork" / "wal").glob("w-*")]:
        path.write_bytes(b"\0" * 100)
    report = raftwork("doctor", "--json")
    assert report.status == 3
    assert report.json["data"]["salvage"]["needs_accept_loss"]
    assert "--salvage --accept-loss" in raftwork("doctor").out
    refused = raftwork("doctor", "--salvage", "--yes")
    assert refused.status == 3
    assert "every job that is not finished" in refused.err
    assert raftwork("doctor", "--accept-loss").status == 2
    assert raftwork("doctor", "--salvage", "--accept-loss", "--yes").status == 0
    assert "work was lost: a salvage gave up the whole state" in raftwork("status").out
    assert "Lost: a salvage gave up the whole state" in raftwork("doctor").out
    (shop / ".raftwork" / "quarantine" / "LOST").unlink()
    assert raftwork("status").status == 0


def test_bench_measures_every_answer_on_disk(raftwork: Any) -> None:
    answer = raftwork("bench", "--jobs", "200", "--json")
    assert answer.status == 0
    assert all(row["value"] > 0 for row in answer.json)


def test_no_command_shows_a_key(raftwork: Any, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U="
    monkeypatch.setenv("RAFTWORK_ENCRYPTION_KEYS", f"2026:{key}")
    for words in (("doctor",), ("doctor", "--json"), ("jobs", "--arg", "user_id=7", "--debug")):
        answer = raftwork(*words)
        assert key not in answer.out + answer.err
    assert '"name":"encryption_keys","value":"***"' in raftwork("doctor", "--json").out
    monkeypatch.setenv("RAFTWORK_ENCRYPTION_KEYS", f"{key},2026:{key}")
    for words in (("doctor", "--debug"), ("jobs",)):
        refused = raftwork(*words)
        assert refused.status == 2
        assert "encryption_keys: entry 1 is not of the form ID:KEY" in refused.err
        assert key not in refused.out + refused.err
