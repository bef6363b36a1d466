"""Encryption: what is bound to what, which keys do, and that neither keys nor clear text show up anywhere."""

from __future__ import annotations

import base64
import builtins
import traceback
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftwork import ConfigError, CryptoMissing, KeyMissing, PayloadDamaged, PayloadTooLarge, Raftwork, serde
from raftwork.codecs import PLAIN, SEALED_TEXT, Codecs, Kind
from raftwork.config import Config
from raftwork.keyring import Keyring, parse_keys

ID, OTHER = bytes(range(16)), bytes(16)
OLD, NEW = b"o" * 32, b"n" * 32
OLD_TEXT, NEW_TEXT = (base64.b64encode(key).decode() for key in (OLD, NEW))

before = Codecs(keys=Keyring({"2026-05": OLD}))
during = Codecs(64, Keyring({"2026-11": NEW, "2026-05": OLD}))
after = Codecs(keys=Keyring({"2026-11": NEW}))

texts = st.text(max_size=300)


@given(st.binary(max_size=3_000), st.binary(min_size=16, max_size=16), st.sampled_from([Kind.RESULT, Kind.STATE]))
def test_a_payload_comes_back_and_is_nowhere_in_what_is_stored(value: bytes, job: bytes, kind: Kind) -> None:
    packed = serde.encode(value)
    stored = during.seal(job, kind, packed)
    assert during.open(job, kind, stored) == packed
    assert len(value) < 4 or value not in stored
    assert len(stored) <= len(packed) + during.overhead


@given(texts, st.sampled_from([Kind.MESSAGE, Kind.TRACEBACK, Kind.REASON]))
def test_texts_come_back(text: str, kind: Kind) -> None:
    stored = during.seal_text(ID, kind, text)
    assert stored.isascii()
    assert stored.startswith(SEALED_TEXT)
    assert during.open_text(ID, kind, stored) == text.encode("utf-8", "backslashreplace").decode()
    assert PLAIN.seal_text(ID, kind, text) == text


@given(texts)
def test_a_text_of_somebody_that_looks_sealed_stays(text: str) -> None:
    assert PLAIN.open_text(ID, Kind.MESSAGE, SEALED_TEXT + text) == SEALED_TEXT + text


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    packed = serde.encode("x")
    old = before.seal(ID, Kind.RESULT, packed)
    assert during.open(ID, Kind.RESULT, old) == packed
    assert after.open(ID, Kind.RESULT, during.seal(ID, Kind.RESULT, packed)) == packed
    with pytest.raises(KeyMissing, match=r"RW801 .*'2026-05'.*encryption_key_file") as caught:
        after.open(ID, Kind.RESULT, old)
    assert caught.value.key_id == "2026-05"
    with pytest.raises(KeyMissing):
        PLAIN.open(ID, Kind.RESULT, old)


def test_another_key_of_the_same_id_is_no_damage() -> None:
    stored = Codecs(keys=Keyring({"2026-11": OLD})).seal(ID, Kind.RESULT, serde.encode(1))
    with pytest.raises(KeyMissing, match="another key of that id"):
        after.open(ID, Kind.RESULT, stored)


@pytest.mark.parametrize(("job", "kind"), [(OTHER, Kind.RESULT), (ID, Kind.ARGS), (ID, Kind.STATE), (ID, Kind.MESSAGE)])
def test_a_payload_cannot_be_moved(job: bytes, kind: Kind) -> None:
    stored = after.seal(ID, Kind.RESULT, serde.encode("x"))
    with pytest.raises(PayloadDamaged, match="belongs to another job"):
        after.open(job, kind, stored)


@given(st.data())
def test_one_changed_bit_is_found(data: st.DataObject) -> None:
    stored = bytearray(after.seal(ID, Kind.RESULT, serde.encode("some text")))
    body = 3  # What is before it says only that this is an extension value.
    place = data.draw(st.integers(body, len(stored) - 1))
    stored[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((PayloadDamaged, KeyMissing)):
        after.open(ID, Kind.RESULT, bytes(stored))


@given(st.binary(max_size=80))
def test_any_bytes_are_refused(noise: bytes) -> None:
    for body in (noise, b"\x01\x07" + noise, b"\x01\x072026-11" + noise):
        with pytest.raises((PayloadDamaged, KeyMissing)):
            after.open(ID, Kind.RESULT, msgspec.msgpack.encode(msgspec.msgpack.Ext(33, body)))


@pytest.mark.parametrize("stored", [b"\xc7", b"\xc7\x05\x21\x01", b"\xc9\xff\xff\xff\xff\x21"])
def test_a_payload_that_is_cut_short_is_damaged(stored: bytes) -> None:
    try:
        assert after.open(ID, Kind.RESULT, stored) == stored
    except PayloadDamaged:
        pass  # With a code that says sealed. The others are for serde to refuse.


def test_two_of_the_same_look_different() -> None:
    packed = serde.encode("x")
    assert after.seal(ID, Kind.RESULT, packed) != after.seal(ID, Kind.RESULT, packed)


def test_what_was_stored_in_clear_is_read_with_keys() -> None:
    packed = serde.encode("x")
    assert after.open(ID, Kind.RESULT, packed) == packed


def test_the_limit_counts_what_encryption_adds() -> None:
    full = serde.encode(bytes(serde.RESULT_BYTES_MAX - 5))
    assert len(full) == serde.RESULT_BYTES_MAX
    with pytest.raises(PayloadTooLarge, match="encryption adds"):
        after.seal(ID, Kind.RESULT, full)
    fits = serde.encode(bytes(serde.RESULT_BYTES_MAX - 5 - after.overhead))
    assert len(after.seal(ID, Kind.RESULT, fits)) <= serde.RESULT_BYTES_MAX


def test_unique_keys_are_the_same_while_keys_rotate() -> None:
    assert before.unique("mail:7") == during.unique("mail:7") != during.unique("mail:8")
    turned = Codecs(keys=Keyring({"2026-05": OLD, "2026-11": NEW}))
    assert turned.unique("mail:7") == during.unique("mail:7")
    assert PLAIN.unique("mail:7") == "mail:7"
    assert "mail" not in during.unique("mail:7")


def test_keys_are_written_in_lines_or_with_commas() -> None:
    assert list(parse_keys(f"new:{NEW_TEXT},old:{OLD_TEXT}", "x").items()) == [("new", NEW), ("old", OLD)]
    assert list(parse_keys(f"# rotated\n new:{NEW_TEXT} # first\n\nold:{OLD_TEXT}\n", "x")) == ["new", "old"]


BAD = ["", "# nothing", NEW_TEXT, f"new {NEW_TEXT}", f":{NEW_TEXT}", "new:", "new:AAAA", f"new:{NEW_TEXT[:-4]}",
       f"n!:{NEW_TEXT}", f"{'n' * 33}:{NEW_TEXT}", f"a:{NEW_TEXT},a:{OLD_TEXT}", f"new:{NEW_TEXT};", f"{NEW_TEXT}:new",
       f"né:{NEW_TEXT}", "new:é" + NEW_TEXT]  # fmt: skip


@pytest.mark.parametrize("text", [*BAD, 5, b"new:x", ["new:x"], True])
def test_bad_keys_are_refused_and_not_repeated(text: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Raftwork("shop", encryption_keys=text)
    shown = "".join(traceback.format_exception(caught.value))
    assert "encryption_keys" in shown
    assert NEW_TEXT[:-4] not in shown
    assert OLD_TEXT not in shown


@pytest.mark.parametrize("place", ["constructor", "environment", "file", "key file"])
def test_keys_come_from_every_place_and_are_not_shown(tmp_path: Path, place: str) -> None:
    text, given, environ = f"new:{NEW_TEXT},old:{OLD_TEXT}", {}, {}
    if place == "constructor":
        given = {"encryption_keys": text}
    elif place == "environment":
        environ = {"RAFTWORK_ENCRYPTION_KEYS": text}
    elif place == "file":
        (tmp_path / "raftwork.toml").write_text(f'encryption_keys = "{text}"')
    else:
        path = tmp_path / "keys"
        path.write_text(text.replace(",", "\n"))
        path.chmod(0o600)
        environ = {"RAFTWORK_ENCRYPTION_KEY_FILE": str(path)}
    config = Config.load(given, environ, tmp_path)
    codecs = Codecs.of(config)
    assert codecs.encrypts
    assert repr(codecs).endswith("keys=<Keyring new, old>>")
    assert NEW_TEXT not in f"{config!r} {codecs!r} {config.rows()}"


def test_a_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for mode, content, words in [
        (0o640, b"new:x", "chmod 600"),
        (0o600, b"\xff\xfe", "not text"),
        (0o600, b"new:AAAA", "32 bytes"),
        (0o600, b"", "no key"),
    ]:
        path.write_bytes(content)
        path.chmod(mode)
        with pytest.raises(ConfigError, match=words) as caught:
            _ = Raftwork("shop", encryption_key_file=path).codecs
        assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        _ = Raftwork("shop", encryption_key_file=tmp_path / "none").codecs
    with pytest.raises(ConfigError, match="both set"):
        _ = Raftwork("shop", encryption_key_file=path, encryption_keys=f"new:{NEW_TEXT}").codecs


def test_without_the_library_keys_are_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fake(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    app = Raftwork("shop", "memory://", encryption_keys=f"new:{NEW_TEXT}")
    with pytest.raises(CryptoMissing, match=r"RW803 .*pip install 'raftwork\[crypto\]'"):
        _ = app.codecs
    assert not Raftwork("shop", "memory://").codecs.encrypts
