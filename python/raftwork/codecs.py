"""What happens to payloads between MessagePack (`raftwork.serde`) and a storage: compression, then encryption.

A payload is the arguments, the result, the saved state or the progress note of one job. What was done to it is told by
MessagePack extension types beside those of `raftwork.serde`:

| code | what             | body                                  |
|------|------------------|---------------------------------------|
| 32   | compressed value | a zlib stream of the value's encoding |
| 33   | sealed payload   | see `raftwork.keyring`                |
| 34   | state and steps  | see `raftwork.saved`                  |

Compression
* Each argument of a job is compressed by itself if it is large, so that nodes still find jobs by the small ones.
* A value stays as it is when compression does not make it smaller.
* Reading needs no setting, and takes at most the limit of the payload, whatever the stream claims.

Encryption
* With keys, all that a job was given and says is sealed as a whole. What was stored without them is still read.
* Messages and tracebacks of errors, and the reason with which a job cancels itself, are text to a storage: sealed, they
  are `SEALED_TEXT` and base64. Without keys they stay as they are.
* Names stay readable: function, queue, tags, the type of an error. A unique key becomes a keyed digest.
"""

from __future__ import annotations

import base64
import binascii
import enum
import zlib
from typing import Any, Final, Protocol

import msgspec
from msgspec.msgpack import Ext

from raftwork import serde
from raftwork.errors import PayloadDamaged, PayloadError, PayloadTooLarge
from raftwork.keyring import NO_KEYS, Keyring

__all__ = ["COMPRESS_ABOVE", "PLAIN", "SEALED_TEXT", "Codecs", "Kind", "is_plain"]

COMPRESS_ABOVE: Final = 2_048
"""Bytes above which compression is worth its time: measured, see docs/guides/payloads.md."""

COMPRESSED: Final = 32
SEALED: Final = 33
HEAD_BYTES_MAX: Final = 6
"""Before the body of an extension value."""
SEALED_TEXT: Final = "raftwork:sealed:"
"""Before a sealed text in base64."""
UNIQUE: Final = "hmac:"
"""Before the digest of a unique key."""
LEVEL: Final = 1
"""Of zlib. Level 6 saves 2 to 4 parts of a hundred more and takes up to twice the time."""
MARK: Final = bytes((COMPRESSED, 0x78, 0x01))
"""The code and the head of a zlib stream of level 1: what has it nowhere inside is not compressed."""

_encode = msgspec.msgpack.Encoder().encode
_read_call = msgspec.msgpack.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw]]).decode
_read = msgspec.msgpack.Decoder().decode
_read_text = msgspec.msgpack.Decoder(str).decode

_CODE_PLACE = {0xC7: 2, 0xC8: 3, 0xC9: 5, **dict.fromkeys(range(0xD4, 0xD9), 1)}
"""First byte of an extension value to the place of its code."""


class Kind(enum.IntEnum):
    """What a payload is."""

    ARGS = 1
    RESULT = 2
    STATE = 3
    PROGRESS = 4
    MESSAGE = 5
    TRACEBACK = 6
    REASON = 7


BYTES_MAX: Final = {
    Kind.ARGS: serde.ARGS_BYTES_MAX,
    Kind.RESULT: serde.RESULT_BYTES_MAX,
    Kind.STATE: serde.STATE_BYTES_MAX,
    Kind.PROGRESS: serde.STATE_BYTES_MAX,
    **dict.fromkeys((Kind.MESSAGE, Kind.TRACEBACK, Kind.REASON), 64 << 10),
}


class Gettable(Protocol):
    """Values by name."""

    def __getitem__(self, name: str, /) -> Any: ...


class Codecs:
    """How one application writes payloads, and what it can read.

    Args:
        compress_above: compress values of more encoded bytes than this. None: never.
        keys: what to encrypt with, if there is any, and to decrypt with.
        secrets_in_clear: take a Secret also without keys.
    """

    __slots__ = ("_compress_above", "_keys", "encrypts", "overhead", "takes_secrets")

    def __init__(
        self, compress_above: int | None = None, keys: Keyring = NO_KEYS, secrets_in_clear: bool = False
    ) -> None:
        self._compress_above = compress_above
        self._keys = keys
        self.encrypts = bool(keys)
        """Whether what is written is encrypted."""
        self.takes_secrets = self.encrypts or secrets_in_clear
        """Whether a Secret may be in a payload."""
        self.overhead = HEAD_BYTES_MAX + keys.overhead if keys else 0
        """Bytes that encryption adds to a payload at most."""

    @classmethod
    def of(cls, settings: Gettable) -> Codecs:
        """What checked settings say.

        Raises:
            ConfigError: the keys cannot be read.
            CryptoMissing: there are keys, and the library that uses them is not installed.
        """
        keys = Keyring.of(settings["encryption_keys"], settings["encryption_key_file"])
        return cls(settings["compress_above"], keys, settings["secrets_in_clear"])

    def seal(self, job: bytes, kind: Kind, packed: bytes) -> bytes:
        """What is stored for an encoded payload of this job.

        Raises:
            PayloadTooLarge: with what encryption adds it is above its limit.
        """
        return self.encrypt(job, kind, self.compress(kind, packed))

    def compress(self, kind: Kind, packed: bytes) -> bytes:
        """The first half of `seal`, which needs no id: the payload with its large values compressed."""
        above = self._compress_above
        small = packed if above is None or len(packed) <= above else self._compressed(kind, packed, above)
        if len(small) + self.overhead > BYTES_MAX[kind]:
            raise PayloadTooLarge(
                f"The {kind.name.lower()}: {len(small):,} bytes, to which encryption adds {self.overhead}; at most "
                f"{BYTES_MAX[kind]:,} travel. Store the data elsewhere and pass its address."
            )
        return small

    def encrypt(self, job: bytes, kind: Kind, packed: bytes) -> bytes:
        """The second half of `seal`."""
        return _encode(Ext(SEALED, self._keys.seal(job, kind, packed))) if self.encrypts else packed

    def _compressed(self, kind: Kind, packed: bytes, above: int) -> bytes:
        if kind is not Kind.ARGS:
            return bytes(_deflate(packed, above))
        args, kwargs = _read_call(packed)
        return _encode(
            (
                [_raw(_deflate(value, above)) for value in args],
                {name: _raw(_deflate(value, above)) for name, value in kwargs.items()},
            )
        )

    def open(self, job: bytes, kind: Kind, stored: bytes) -> bytes:
        """The encoded payload that `seal` was given.

        Raises:
            KeyMissing: it is encrypted with a key that is not here.
            PayloadDamaged: the stored bytes are not those that were written.
        """
        if stored and stored[0] in _CODE_PLACE and extension_code(stored) == SEALED:
            stored = self._decrypted(job, kind, stored)
        return stored if MARK not in stored else _expand(kind, stored)

    def _decrypted(self, job: bytes, kind: Kind, stored: bytes) -> bytes:
        try:
            sealed = bytes(_read(stored).data)
        except msgspec.DecodeError as error:
            raise _damaged(kind, str(error)) from None
        return self._keys.open(job, kind, sealed, kind.name.lower())

    def seal_text(self, job: bytes, kind: Kind, text: str) -> str:
        """What is stored for a text of this job; the text itself without keys."""
        if not self.encrypts:
            return text
        text = text.encode("utf-8", "backslashreplace").decode()  # Lone surrogates cannot travel.
        return SEALED_TEXT + base64.b64encode(self.seal(job, kind, _encode(text))).decode()

    def open_text(self, job: bytes, kind: Kind, stored: str) -> str:
        """The text that `seal_text` was given; words about why not, where it cannot be read. Never raises."""
        if not stored.startswith(SEALED_TEXT):
            return stored
        try:
            packed = base64.b64decode(stored.removeprefix(SEALED_TEXT), validate=True)
            text: str = _read_text(self.open(job, kind, packed))
        except PayloadError as error:
            return f"<{error.message}>"
        except (binascii.Error, ValueError, msgspec.DecodeError, msgspec.ValidationError):
            return stored  # Somebody's own text that begins so.
        return text

    def unique(self, key: str) -> str:
        """What is stored for a unique key: a digest of it where arguments are encrypted, as it is made of them."""
        return UNIQUE + self._keys.digest(key) if self.encrypts else key

    def __repr__(self) -> str:
        return f"<Codecs compress_above={self._compress_above} keys={self._keys!r}>"


PLAIN: Final = Codecs()
"""Writes payloads as they are, and reads what needs no key."""


def is_plain(args: bytes) -> bool:
    """Whether `Codecs.open` gives these arguments back as they are. Quick: it is asked for every job, and mostly so."""
    return args.startswith(b"\x92") and MARK not in args


def extension_code(packed: bytes | msgspec.Raw) -> int | None:
    """The extension type of an encoded value; None if it is a plain one."""
    view = memoryview(packed)
    place = _CODE_PLACE.get(view[0]) if view else None
    return view[place] if place is not None and place < len(view) else None


def _raw(value: bytes | msgspec.Raw) -> msgspec.Raw:
    return value if isinstance(value, msgspec.Raw) else msgspec.Raw(value)


def _deflate(value: bytes | msgspec.Raw, above: int) -> bytes | msgspec.Raw:
    plain = memoryview(value)
    if len(plain) <= above:
        return value
    packed = _encode(Ext(COMPRESSED, zlib.compress(plain, LEVEL)))
    return packed if len(packed) < len(plain) else value


def _expand(kind: Kind, stored: bytes) -> bytes:
    """The payload with all values as they were, within the limit of its kind."""
    room = BYTES_MAX[kind]
    try:
        if kind is not Kind.ARGS:
            return bytes(_inflate(stored, room))
        args, kwargs = _read_call(stored)
        values = []
        for value in (*args, *kwargs.values()):
            values.append(_raw(_inflate(value, room)))
            room -= len(memoryview(values[-1]))
        return _encode((values[: len(args)], dict(zip(kwargs, values[len(args) :], strict=True))))
    except (msgspec.DecodeError, msgspec.ValidationError, zlib.error) as error:
        raise _damaged(kind, str(error)) from None


def _inflate(value: bytes | msgspec.Raw, room: int) -> bytes | msgspec.Raw:
    if extension_code(value) != COMPRESSED:
        return value
    stream = zlib.decompressobj()
    # One byte more than fits tells a stream that is too long from one that just fits.
    plain = stream.decompress(_read(value).data, max(room, 0) + 1)
    if len(plain) > room or not stream.eof or stream.unused_data:
        raise zlib.error("the compressed stream is cut short, or longer than the limit")
    return plain


def _damaged(kind: Kind, what: str) -> PayloadDamaged:
    return PayloadDamaged(f"The stored {kind.name.lower()} of the job cannot be read: {what}.")
