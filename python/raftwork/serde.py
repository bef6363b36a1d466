"""Arguments, results and saved state to MessagePack and back, without loss, or an error that names the place.

What travels: None, bool, int of any size, float (NaN, infinities and -0.0 included), str, bytes, bytearray, list,
tuple, dict with hashable keys that travel, set, frozenset, datetime (naive, or with UTC, a fixed offset or a
`ZoneInfo`), date, time, timedelta, UUID, Decimal, members of an Enum, instances of a dataclass, and a Secret where
it is allowed. The exact type comes back. Everything else is refused, subclasses included: a `numpy.float64` that came
back as a `float` would be a silent change. Never pickle.

Extension types (MessagePack codes; the body is MessagePack again unless said otherwise):

| code | type      | body                                                                               |
|------|-----------|------------------------------------------------------------------------------------|
| 1    | tuple     | array of the items                                                                 |
| 2    | set       | array of the items, ordered by their encoding, so that equal sets have equal bytes |
| 3    | frozenset | the same                                                                           |
| 4    | datetime  | [year, month, day, hour, minute, second, microsecond, fold, zone]                  |
| 5    | date      | [year, month, day]                                                                 |
| 6    | time      | [hour, minute, second, microsecond, fold, zone]                                    |
| 7    | timedelta | [days, seconds, microseconds]                                                      |
| 8    | UUID      | its 16 bytes                                                                       |
| 9    | Decimal   | its text in UTF-8                                                                  |
| 10   | int       | beyond 64 bits: two's complement, big-endian, shortest                             |
| 11   | Enum      | ["module:qualname", member name]                                                   |
| 12   | dataclass | ["module:qualname", {field: value}]                                                |
| 13   | bytearray | its bytes                                                                          |
| 14   | Flag      | ["module:qualname", value]                                                         |
| 15   | dict      | array of [key, value], when a key needs an extension type; other dicts are maps    |
| 16   | Secret    | its value                                                                          |
| 17   | output    | the place of a parent among those of the job, 4 bytes, big-endian                   |

zone: nil (naive), an int (offset from UTC in microseconds), [int, name] (a named fixed offset), or a str (ZoneInfo
key).

Classes of codes 11, 12 and 14 are looked up in modules that are loaded, or that belong to a package that is loaded;
never elsewhere, and only if they are an Enum or a dataclass that names itself so. Decoding calls no constructor and
no `__post_init__`.
"""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext

from raftwork import references
from raftwork.errors import PayloadTooLarge, SecretRefused, SerializationError
from raftwork.output import Output, ParentOutput
from raftwork.secret import Secret

__all__ = [
    "ARGS_BYTES_MAX",
    "DEPTH_MAX",
    "ITEMS_MAX",
    "RESULT_BYTES_MAX",
    "STATE_BYTES_MAX",
    "canonical",
    "decode",
    "decode_args",
    "encode",
    "encode_args",
    "read_extension",
]

ARGS_BYTES_MAX = 256 << 10
"""Encoded arguments of one job. Larger data belongs in a file or a blob store; the job carries its address."""
RESULT_BYTES_MAX = 256 << 10
"""Encoded result of one job."""
STATE_BYTES_MAX = 64 << 10
"""Encoded saved state or progress note of one job."""
DEPTH_MAX = 32
"""Nested containers, the argument list itself included."""
ITEMS_MAX = 65_536
"""Items of one container."""

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
"""Types that MessagePack carries exactly, but for ints beyond 64 bits and lone surrogates."""

_are_scalars = _SCALARS.issuperset
_pack = msgspec.msgpack.Encoder().encode


def encode_args(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    what: str = "the task",
    secrets: bool = False,
    outputs: dict[bytes, int] | None = None,
) -> bytes:
    """The wire form of a call: `[[positional...], {keyword: value}]`. `secrets`: whether a Secret may be in it.

    Jobs whose output is an argument are added to `outputs`; without it outputs are refused.

    Raises:
        SerializationError: a value cannot travel; `path` names it, such as `args[2]['x']`.
        PayloadTooLarge: more than `ARGS_BYTES_MAX`.
        SecretRefused: there is a Secret.
    """
    if _are_scalars(map(type, args)) and (not kwargs or _are_scalars(map(type, kwargs.values()))):
        try:
            packed = _pack((args, kwargs))
        except (OverflowError, UnicodeEncodeError):
            pass  # A big int or a surrogate: the slow way stores the one and names the place of the other.
        else:
            return packed if len(packed) <= ARGS_BYTES_MAX else _too_large(packed, what, ARGS_BYTES_MAX)
    how = _How(secrets=secrets, outputs=outputs)
    try:
        positional = [_plain(value, f"args[{place}]", 3, how) for place, value in enumerate(args)]
        keywords = {_text(name, "kwargs"): _plain(value, name, 3, how) for name, value in kwargs.items()}
    except SerializationError as error:
        raise SerializationError(f"{what}: {error.message}", error.path) from None
    packed = _pack((positional, keywords))
    return packed if len(packed) <= ARGS_BYTES_MAX else _too_large(packed, what, ARGS_BYTES_MAX)


def encode(value: Any, *, what: str = "result", bytes_max: int = RESULT_BYTES_MAX, secrets: bool = False) -> bytes:
    """The wire form of one value. `what` names it in errors; `secrets`: whether a Secret may be in it.

    Raises:
        SerializationError: it, or something in it, cannot travel.
        PayloadTooLarge: more than `bytes_max`.
        SecretRefused: there is a Secret.
    """
    packed = _pack(_plain(value, what, 1, _How(secrets=secrets)))
    return packed if len(packed) <= bytes_max else _too_large(packed, what, bytes_max)


def canonical(value: Any) -> bytes:
    """Bytes that are equal for equal values of equal types, also when dictionaries were filled in another order."""
    return _pack(_plain(value, "args", 1, _How(sort=True, secrets=True)))


def decode_args(packed: bytes) -> tuple[list[Any], dict[str, Any]]:
    """The positional and keyword arguments that `encode_args` wrote.

    Raises:
        SerializationError: the bytes are damaged, or name a class that this process does not have.
    """
    if type(decoded := _unpack(packed, "arguments")) is list and len(decoded) == 2:
        args, kwargs = decoded
        if type(args) is list and type(kwargs) is dict and (not kwargs or all(type(name) is str for name in kwargs)):
            return args, kwargs
    raise SerializationError("The arguments are not in the form [[positional], {keyword: value}].")


def decode(packed: bytes, what: str = "result") -> Any:
    """The value that `encode` wrote.

    Raises:
        SerializationError: the bytes are damaged, or name a class that this process does not have.
    """
    return _unpack(packed, what)


class _How(NamedTuple):
    """How values are encoded."""

    sort: bool = False
    """Whether the entries of dictionaries are put in one order."""
    secrets: bool = False
    """Whether a Secret is taken."""
    outputs: dict[bytes, int] | None = None
    """The jobs whose output is used, with their places."""


# Encoding -------------------------------------------------------------------------------------------------------------


def _plain(value: Any, path: str, depth: int, how: _How) -> Any:
    """The value with everything that MessagePack does not carry exactly turned into extension types."""
    kind = type(value)
    if kind in _SCALARS:
        return _scalar(value, path)
    if depth > DEPTH_MAX:
        raise SerializationError(f"{_head(path)} is nested deeper than {DEPTH_MAX} levels, or contains itself.", path)
    if kind is list:
        return _items(value, path, depth, how)
    if kind is dict:
        return _dict(value, path, depth, how)
    convert = _CONVERSIONS.get(kind)
    if convert is not None:
        return convert(value, path, depth, how)
    if isinstance(value, enum.Enum):
        return _enum(value, path)
    if dataclasses.is_dataclass(kind):
        return _dataclass(value, path, depth, how)
    raise SerializationError(_refusal(value, kind, path), path)


def _scalar(value: Any, path: str) -> Any:
    if type(value) is int and not -(1 << 63) <= value < 1 << 64:
        # One more bit than the magnitude, for the sign.
        return Ext(10, value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True))
    if type(value) is str and not value.isascii():
        return _text(value, path)
    return value


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SerializationError(
            f"{_head(path)} has a lone surrogate at position {error.start}, which is not text. "
            "Pass bytes, or decode with errors='replace'.",
            path,
        ) from None
    return value


def _items(values: Any, path: str, depth: int, how: _How) -> list[Any]:
    _check_count(values, path)
    return [_plain(value, f"{path}[{place}]", depth + 1, how) for place, value in enumerate(values)]


def _dict(value: dict[Any, Any], path: str, depth: int, how: _How) -> Any:
    _check_count(value, path)
    pairs = []
    plain_keys = True
    for key, item in value.items():
        where = f"{path}[{key!r:.60}]"
        plain = _plain(key, f"key of {where}", depth + 1, how)
        plain_keys = plain_keys and not isinstance(plain, Ext)
        pairs.append((plain, _plain(item, where, depth + 1, how)))
    if how.sort:
        pairs.sort(key=lambda pair: _pack(pair[0]))
    # Extension types cannot be keys of the dict that the encoder walks.
    return dict(pairs) if plain_keys else Ext(15, _pack(pairs))


def _sequence(code: int) -> Callable[[Any, str, int, _How], Ext]:
    def convert(value: Any, path: str, depth: int, how: _How) -> Ext:
        return Ext(code, _pack(_items(value, path, depth, how)))

    return convert


def _unordered(code: int) -> Callable[[Any, str, int, _How], Ext]:
    def convert(value: Any, path: str, depth: int, how: _How) -> Ext:
        _check_count(value, path)
        how = how._replace(outputs=None)
        items = sorted(_pack(_plain(item, f"an item of {path}", depth + 1, how)) for item in value)
        return Ext(code, _pack([msgspec.Raw(item) for item in items]))

    return convert


def _datetime(value: datetime, path: str, depth: int, how: _How) -> Ext:
    day = (value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond)
    return Ext(4, _pack((*day, value.fold, _zone(value, path))))


def _time(value: time, path: str, depth: int, how: _How) -> Ext:
    return Ext(6, _pack((value.hour, value.minute, value.second, value.microsecond, value.fold, _zone(value, path))))


def _zone(value: datetime | time, path: str) -> Any:
    zone = value.tzinfo
    if zone is None:
        return None
    if type(zone) is timezone:
        offset = zone.utcoffset(None) // timedelta(microseconds=1)
        name = zone.tzname(None)
        return offset if name == timezone(zone.utcoffset(None)).tzname(None) else [offset, name]
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    raise SerializationError(
        f"{_head(path)} has the time zone {zone!r}, which another process cannot find by name. "
        "Use zoneinfo.ZoneInfo, a fixed offset, or convert with .astimezone(UTC).",
        path,
    )


def _secret(value: Secret[Any], path: str, depth: int, how: _How) -> Ext:
    if not how.secrets:
        raise SecretRefused(
            f"{_head(path)} is a Secret, and this application has no encryption key, so it would be stored in clear. "
            "Set encryption_key_file, or secrets_in_clear to store it all the same.",
            path,
        )
    return Ext(16, _pack(_plain(value.reveal(), path, depth + 1, how)))


_CONVERSIONS: dict[type, Callable[[Any, str, int, _How], Ext]] = {
    tuple: _sequence(1),
    set: _unordered(2),
    frozenset: _unordered(3),
    datetime: _datetime,
    date: lambda value, *_: Ext(5, _pack((value.year, value.month, value.day))),
    time: _time,
    timedelta: lambda value, *_: Ext(7, _pack((value.days, value.seconds, value.microseconds))),
    uuid.UUID: lambda value, *_: Ext(8, value.bytes),
    Decimal: lambda value, *_: Ext(9, str(value).encode()),
    bytearray: lambda value, *_: Ext(13, bytes(value)),
    Secret: _secret,
    Output: lambda value, path, depth, how: Ext(17, value.place_in(how.outputs, path, _head(path))),
}


def _enum(value: enum.Enum, path: str) -> Ext:
    reference = _reference(type(value), path)
    if isinstance(value, enum.Flag):
        return Ext(14, _pack((reference, value.value)))
    return Ext(11, _pack((reference, value.name)))


def _dataclass(value: Any, path: str, depth: int, how: _How) -> Ext:
    kind = type(value)
    if references.has_builtin_part(kind):
        raise SerializationError(
            f"{_head(path)} is a {kind.__qualname__}, a dataclass that also inherits from a built-in type, whose part "
            "would be lost. Pass its fields.",
            path,
        )
    fields = {}
    how = how._replace(outputs=None)
    for field in dataclasses.fields(kind):
        where = f"{path}.{field.name}"
        try:
            item = getattr(value, field.name)
        except AttributeError:
            raise SerializationError(f"{_head(where)} is not set.", where) from None
        fields[field.name] = _plain(item, where, depth + 1, how)
    return Ext(12, _pack((_reference(kind, path), fields)))


def _reference(kind: type, path: str) -> str:
    try:
        return references.name_of(kind)
    except LookupError as error:
        raise SerializationError(f"{_head(path)} is a {kind.__qualname__}, and {error}", path) from None


def _check_count(value: Any, path: str) -> None:
    if len(value) > ITEMS_MAX:
        raise SerializationError(
            f"{_head(path)} has {len(value):,} items; at most {ITEMS_MAX:,} travel. Store them and pass their address, "
            "or enqueue several jobs.",
            path,
        )


def _refusal(value: Any, kind: type, path: str) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    base = next((known.__name__ for known in (*_SCALARS, list, dict, *_CONVERSIONS) if isinstance(value, known)), None)
    if kind is memoryview:
        return f"{_head(path)} is a memoryview. Pass bytes(view)."
    if base is not None:
        return f"{_head(path)} is a {name} and would come back as a plain {base}. Convert it to {base} yourself."
    article = "an" if name[0] in "aeiou" else "a"
    return (
        f"{_head(path)} is {article} {name} object; jobs carry plain data. Pass an id and load it in the job, or use a "
        "dataclass."
    )


def _head(path: str) -> str:
    if path.startswith("args["):
        place, _, rest = path[5:].partition("]")
        return f"Argument {int(place) + 1} ({path})" if rest else f"Argument {int(place) + 1}"
    return path[0].upper() + path[1:] if path in ("result", "state", "progress") else f"Argument {path!r}"


def _too_large(packed: bytes, what: str, bytes_max: int) -> bytes:
    raise PayloadTooLarge(
        f"{what}: {len(packed):,} bytes encoded, at most {bytes_max:,} travel. "
        "Store the data elsewhere and pass its address."
    )


# Decoding -------------------------------------------------------------------------------------------------------------


def _unpack(packed: bytes, what: str) -> Any:
    try:
        value = _decode(packed)
        _check_shape(value, 1)
    except SerializationError:
        raise
    except RecursionError:
        raise SerializationError(f"The stored {what} is nested too deeply.") from None
    except Exception as error:
        # Whatever a damaged body makes datetime, Decimal and their like raise, it means the same here.
        raise SerializationError(f"The stored {what} cannot be read: {error}.") from error
    return value


def _check_shape(value: Any, depth: int) -> None:
    kind = type(value)
    if kind in _SCALARS:
        return
    if kind is dict:
        items: Any = value.values()
    elif kind is list or kind is tuple or kind is set or kind is frozenset:
        items = value
    else:
        return
    if depth > DEPTH_MAX:
        raise SerializationError(f"The stored value is nested deeper than {DEPTH_MAX} levels.")
    if len(value) > ITEMS_MAX:
        raise SerializationError(f"The stored value has a container of more than {ITEMS_MAX:,} items.")
    for item in items:
        if type(item) not in _SCALARS:
            _check_shape(item, depth + 1)


def _read_zone(zone: Any) -> timezone | ZoneInfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        return ZoneInfo(zone)
    if isinstance(zone, int):
        return timezone(timedelta(microseconds=zone)) if zone else timezone.utc  # noqa: UP017
    offset, name = zone
    return timezone(timedelta(microseconds=offset), name)


def _read_datetime(body: bytes) -> datetime:
    year, month, day, hour, minute, second, microsecond, fold, zone = _decode(body)
    return datetime(year, month, day, hour, minute, second, microsecond, _read_zone(zone), fold=fold)


def _read_time(body: bytes) -> time:
    hour, minute, second, microsecond, fold, zone = _decode(body)
    return time(hour, minute, second, microsecond, _read_zone(zone), fold=fold)


def _read_timedelta(body: bytes) -> timedelta:
    days, seconds, microseconds = _decode(body)
    return timedelta(days, seconds, microseconds)


def _read_enum(body: bytes) -> enum.Enum:
    reference, name = _decode(body)
    return references.find(reference, enum.Enum)[name]  # type: ignore[no-any-return]


def _read_flag(body: bytes) -> enum.Flag:
    reference, value = _decode(body)
    return references.find(reference, enum.Flag)(value)  # type: ignore[no-any-return]


def _read_dataclass(body: bytes) -> Any:
    reference, values = _decode(body)
    kind = references.find(reference, None)
    instance = object.__new__(kind)
    for field in dataclasses.fields(kind):
        if field.name in values:
            value = values.pop(field.name)
        elif field.default is not dataclasses.MISSING:
            value = field.default  # A field added since the job was stored.
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise SerializationError(f"The stored {reference} has no field {field.name!r}, which has no default.")
        object.__setattr__(instance, field.name, value)
    if values:
        raise SerializationError(
            f"The stored {reference} has fields that the class lacks: {', '.join(sorted(values))}."
        )
    return instance


_READERS: dict[int, Callable[[bytes], Any]] = {
    1: lambda body: tuple(_decode(body)),
    2: lambda body: set(_decode(body)),
    3: lambda body: frozenset(_decode(body)),
    4: _read_datetime,
    5: lambda body: date(*_decode(body)),
    6: _read_time,
    7: _read_timedelta,
    8: lambda body: uuid.UUID(bytes=body),
    9: lambda body: Decimal(body.decode()),
    10: lambda body: int.from_bytes(body, "big", signed=True),
    11: _read_enum,
    12: _read_dataclass,
    13: bytearray,
    14: _read_flag,
    15: lambda body: dict(_decode(body)),
    16: lambda body: Secret(_decode(body)),
    17: lambda body: ParentOutput(int.from_bytes(body, "big")),
}


def read_extension(code: int, body: memoryview) -> Any:
    """The value of one extension type, for decoders."""
    reader = _READERS.get(code)
    if reader is None:
        raise SerializationError(f"The stored value has the extension type {code}, which this version does not know.")
    return reader(bytes(body))


_decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(ext_hook=read_extension).decode
