"""Keys for payloads: how they are written, and AES-256-GCM with them.

    2026-11:q83v...=     the first key encrypts
    2026-05:3q2+...=     all decrypt

Entries are `ID:KEY`, a KEY being 32 bytes in base64, with commas or white space between them; `#` begins a comment.

What is sealed (the body of extension type 33):

| offset | bytes | field                                                                     |
|--------|-------|---------------------------------------------------------------------------|
| 0      | 1     | version, 1                                                                |
| 1      | 1     | n, the length of the key's id                                             |
| 2      | n     | the key's id, ASCII                                                       |
| 2 + n  | 4     | the key's mark, which tells another key of the same id from damaged bytes |
| 6 + n  | 12    | nonce, random                                                             |
| 18 + n | rest  | ciphertext, and 16 bytes of its tag                                       |

* Each job has a key of its own, derived from the named one and the job's id with HMAC-SHA256. So there are never so
  many payloads under one key that random nonces could meet.
* All before the nonce, the kind of the payload and the job's id are authenticated: what was written for one job, or as
  its state, cannot be put in the place of another job's, or of a result.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from raftwork.errors import ConfigError, CryptoMissing, KeyMissing, PayloadDamaged
from raftwork.network import read_private
from raftwork.secret import Masked

__all__ = ["NO_KEYS", "Keyring", "check_keys", "parse_keys"]

VERSION: Final = 1
KEY_BYTES: Final = 32
MARK_BYTES: Final = 4
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

_ID = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)


class Keyring:
    """Keys by id; the first encrypts. Shows ids only.

    Raises:
        CryptoMissing: there are keys, and the library is not installed.
    """

    __slots__ = ("_aead", "_keys", "first", "overhead")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        self._aead = _library() if keys else None
        self.first = next(iter(self._keys), "")
        """The id of the key that encrypts; empty when there is none."""
        self.overhead = 2 + len(self.first) + MARK_BYTES + NONCE_BYTES + TAG_BYTES if keys else 0
        """Bytes that sealing adds."""

    @property
    def ids(self) -> list[str]:
        """The ids of the keys, in their order."""
        return list(self._keys)

    @classmethod
    def of(cls, keys: str | None, file: str | None) -> Keyring:
        """What checked settings say.

        Raises:
            ConfigError: both are given, or the file cannot be used.
        """
        if keys is not None and file is not None:
            raise ConfigError("encryption_keys and encryption_key_file are both set. Take one of them away.")
        if file is not None:
            return cls(parse_keys(read_private(file, "encryption_key_file"), f"encryption_key_file={file!r}"))
        return NO_KEYS if keys is None else cls(parse_keys(keys, "encryption_keys"))

    def seal(self, job: bytes, kind: int, clear: bytes) -> bytes:
        """Encrypt a payload of this job with the first key."""
        key = self._keys[self.first]
        head = bytes((VERSION, len(self.first))) + self.first.encode() + _mark(key)
        nonce = os.urandom(NONCE_BYTES)
        sealed: bytes = self._cipher(key, job).encrypt(nonce, clear, _bound(head, kind, job))
        return head + nonce + sealed

    def open(self, job: bytes, kind: int, sealed: bytes, what: str) -> bytes:
        """What `seal` was given for the same job and kind. `what` names it in errors.

        Raises:
            KeyMissing: there is no such key here, or another one of that id.
            PayloadDamaged: the bytes, the job or the kind is another than when it was sealed.
        """
        damaged = PayloadDamaged(
            f"The stored {what} cannot be decrypted: it was changed, or belongs to another job or place."
        )
        if len(sealed) < 2 or sealed[0] != VERSION:
            raise damaged
        end = 2 + sealed[1]
        head, nonce, rest = sealed[: end + 4], sealed[end + 4 : end + 16], sealed[end + 16 :]
        id = sealed[2:end].decode("ascii", "replace")
        if len(rest) < TAG_BYTES or not _ID.fullmatch(id):
            raise damaged
        key = self._keys.get(id)
        if key is None or not hmac.compare_digest(_mark(key), head[end:]):
            raise _missing(id, what, here=key is not None)
        try:
            clear: bytes = self._cipher(key, job).decrypt(nonce, rest, _bound(head, kind, job))
        except Exception:  # InvalidTag, of a library that may not be there to name it.
            raise damaged from None
        return clear

    def digest(self, text: str) -> str:
        """A keyed digest, the same in all processes whose keys begin, in the order of their ids, with the same one."""
        key = self._keys[min(self._keys)]
        return hmac.digest(_derived(key, b"unique", b""), text.encode("utf-8", "surrogatepass"), "sha256").hex()[:32]

    def _cipher(self, key: bytes, job: bytes) -> Any:
        if self._aead is None:
            raise AssertionError("a keyring with keys has the library")
        return self._aead(_derived(key, b"job", job))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(self._keys)}>"


def parse_keys(text: str, setting: str) -> dict[str, bytes]:
    """Keys by id, in their order. Errors never repeat what could be a key.

    Raises:
        ConfigError: an entry is malformed, an id is there twice, or there is none.
    """
    keys: dict[str, bytes] = {}
    entries = re.split(r"[\s,]+", re.sub(r"#.*", "", text).strip())
    for number, entry in enumerate(filter(None, entries), 1):
        id, colon, encoded = entry.partition(":")
        if not colon or not _ID.fullmatch(id):
            raise ConfigError(
                f"{setting}: entry {number} is not of the form ID:KEY, with an ID of 1 to 32 letters, digits and "
                ". _ -, such as 2026-11:KEY."
            )
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise ConfigError(
                f"{setting}: the key {id!r} is not {KEY_BYTES} bytes in base64. `openssl rand -base64 32` makes one."
            )
        if id in keys:
            raise ConfigError(f"{setting}: the id {id!r} is there twice. Give each key an id of its own.")
        keys[id] = key
    if not keys:
        raise ConfigError(f"{setting} has no key. Write ID:KEY; `openssl rand -base64 32` makes a KEY.")
    return keys


def check_keys(value: Any) -> Masked:
    """The setting `encryption_keys`, checked.

    Raises:
        ConfigError: it is malformed.
    """
    if not isinstance(value, str):
        raise ConfigError("encryption_keys is not text. Write ID:KEY,ID:KEY.")
    parse_keys(value, "encryption_keys")
    return Masked(value)


def _missing(id: str, what: str, *, here: bool) -> KeyMissing:
    has = "with another key of that id" if here else "without that key"
    return KeyMissing(
        f"The stored {what} is encrypted with the key {id!r}, and this process runs {has}. Give it all keys that are "
        "in use: encryption_key_file or RAFTWORK_ENCRYPTION_KEYS.",
        id,
    )


def _derived(key: bytes, purpose: bytes, job: bytes) -> bytes:
    return hmac.digest(key, b"raftwork " + purpose + b"\0" + job, "sha256")


def _mark(key: bytes) -> bytes:
    return _derived(key, b"mark", b"")[:MARK_BYTES]


def _bound(head: bytes, kind: int, job: bytes) -> bytes:
    return head + bytes((kind,)) + job


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise CryptoMissing(
            "There are encryption keys, but the library that uses them is missing: pip install 'raftwork[crypto]'."
        ) from None
    return AESGCM


NO_KEYS: Final = Keyring({})
