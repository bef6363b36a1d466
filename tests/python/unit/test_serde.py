"""Values come back exactly as they went, or are refused with the place that is to blame."""

from __future__ import annotations

import dataclasses
import enum
import io
import math
import threading
import uuid
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftwork import PayloadTooLarge, SerializationError, descriptions, serde


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    inner: Point | None = None


class Outer:
    @dataclasses.dataclass
    class Inner:
        value: int


@dataclasses.dataclass
class Guarded:
    value: int

    def __post_init__(self) -> None:
        raise AssertionError("decoding must run no code of the user")


@dataclasses.dataclass
class FancyList(list[int]):
    value: int = 0


class OwnInt(int):
    pass


Pair = namedtuple("Pair", "left right")


def same(left: Any, right: Any) -> bool:
    """Equal, of equal types all the way down, with NaN equal to itself and zero's sign kept."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            same(a, c) and same(b, d) for (a, b), (c, d) in zip(left.items(), right.items(), strict=True)
        )
    if isinstance(left, Decimal):
        return str(left) == str(right)
    if isinstance(left, datetime | time):
        return bool(left.replace(tzinfo=None) == right.replace(tzinfo=None) and left.fold == right.fold) and repr(
            left.tzinfo
        ) == repr(right.tzinfo)
    if dataclasses.is_dataclass(left):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    return bool(left == right)


VALUES = [
    None, True, 0, -1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**100, -(10**100),
    0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, "", "text", "NUL\0", "🎈", "é", b"", b"\xff\0", bytearray(b"x"),
    [], [1, [2]], (), (1, (2, [3])), {}, {"a": 1}, {1: "a", None: 2, b"k": 3, 1.5: 4}, {(1, 2): {3}},
    {uuid.UUID(int=1): Colour.RED, date(2026, 1, 1): 1}, set(), {1, "a"}, frozenset({(1,), b"x"}), {frozenset({1})},
    datetime(2026, 1, 2, 3, 4, 5, 6), datetime(2026, 1, 2, tzinfo=UTC), datetime.max, datetime.min,
    datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Oslo")), datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3, microseconds=7))),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")), time(1, 2, 3, 4), time(1, tzinfo=UTC, fold=1),
    date(1, 1, 1), timedelta(days=-1, microseconds=1), timedelta.max, uuid.UUID(int=2**128 - 1),
    Decimal("1.10"), Decimal("-0"), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1E+1000"),
    Colour.BLUE, Level.LOW, Rights.READ | Rights.WRITE, Rights(0),
    Point(1, [Frozen("a", Point(2))]), Outer.Inner(3), [Point(1)] * 3,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_values_come_back_exactly(value: Any) -> None:
    assert same(serde.decode(serde.encode(value)), value)
    args, kwargs = serde.decode_args(serde.encode_args((value, 1), {"name": value}))
    assert same(args, [value, 1])
    assert same(kwargs, {"name": value})


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.uuids()
    | st.decimals()
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC) | st.timezones())
    | st.dates()
    | st.timedeltas()
    | st.times()
    | st.sampled_from([*Colour, *Level, *Rights])
)
KEYS = st.integers() | st.text(st.characters(exclude_categories=["Cs"])) | st.binary() | st.uuids() | st.dates()
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.builds(Point, st.integers(), inner)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(NESTED)
def test_anything_nested_comes_back_exactly(value: Any) -> None:
    assert same(serde.decode(serde.encode(value)), value)


@settings(deadline=None)
@given(st.lists(NESTED, max_size=3), st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), NESTED, max_size=3))
def test_the_reference_implementation_reads_our_bytes(args: list[Any], kwargs: dict[str, Any]) -> None:
    packed = serde.encode_args(tuple(args), kwargs)
    found = msgpack.unpackb(packed, strict_map_key=False, ext_hook=lambda code, body: (code, body))
    assert [len(found[0]), sorted(found[1])] == [len(args), sorted(kwargs)]


def test_the_reference_implementation_reads_plain_values_as_they_are() -> None:
    packed = serde.encode_args((7, "x", [1, {"a": None}]), {"template": "vip"})
    assert msgpack.unpackb(packed) == [[7, "x", [1, {"a": None}]], {"template": "vip"}]


@given(st.binary(max_size=200))
def test_damaged_bytes_are_an_error_of_ours_or_a_value(packed: bytes) -> None:
    for read in (serde.decode, serde.decode_args):
        try:
            read(packed)
        except SerializationError:
            pass
    assert isinstance(descriptions.describe(packed), str)
    assert isinstance(descriptions.describe_args(packed), str)


class Strange:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (object(), "args[0]"),
        (Strange(), "args[0]"),
        (io.StringIO(), "args[0]"),
        (threading.Lock(), "args[0]"),
        (generator(), "args[0]"),
        (memoryview(b"x"), "args[0]"),
        (range(3), "args[0]"),
        (1j, "args[0]"),
        (len, "args[0]"),
        (int, "args[0]"),
        (Point, "args[0]"),
        (Colour, "args[0]"),
        (lambda: 1, "args[0]"),
        (ValueError("x"), "args[0]"),
        ("\ud800", "args[0]"),
        (OwnInt(1), "args[0]"),
        (Pair(1, 2), "args[0]"),
        (OrderedDict(a=1), "args[0]"),
        (FancyList(1), "args[0]"),
        ([1, {"x": object()}], "args[0][1]['x']"),
        ({"a": {("b", object): 1}}, None),
        (Point(1, object()), "args[0].y"),
        ({1, object()}, None),
        ([0] * 65_537, "args[0]"),
        ({"k": "\udfff"}, "args[0]['k']"),
        ({"\udfff": 1}, None),
        (datetime(2026, 1, 1, tzinfo=type("Zone", (tzinfo,), {"utcoffset": lambda *_: timedelta(0)})()), "args[0]"),
    ],
    ids=lambda value: None if isinstance(value, Strange) else repr(value)[:30],
)
def test_what_cannot_travel_is_named(value: Any, where: str | None) -> None:
    with pytest.raises(SerializationError) as caught:
        serde.encode_args((value,), {})
    if where is not None:
        assert caught.value.path == where
    with pytest.raises(SerializationError) as caught:
        serde.encode_args((), {"user": value})
    assert "user" in str(caught.value)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth_has_a_limit_on_both_ways() -> None:
    assert serde.decode(serde.encode(nested(32))) == nested(32)
    with pytest.raises(SerializationError, match="32"):
        serde.encode(nested(33))
    with pytest.raises(SerializationError, match="32"):
        serde.decode(b"\x91" * 40 + b"\x01")
    with pytest.raises(SerializationError):
        serde.decode(b"\x91" * 100_000 + b"\x01")


def test_a_value_that_contains_itself_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(SerializationError, match="contains itself"):
        serde.encode_args((cycle,), {})


def test_classes_inside_functions_are_refused() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    with pytest.raises(SerializationError, match="inside a function"):
        serde.encode_args((Local(1),), {})


def test_decoding_runs_no_constructor() -> None:
    guarded = object.__new__(Guarded)
    guarded.value = 3
    assert serde.decode(serde.encode(guarded)).value == 3


def craft(code: int, *body: Any) -> bytes:
    packed: bytes = msgpack.packb(msgpack.ExtType(code, msgpack.packb(list(body))))
    return packed


@pytest.mark.parametrize(
    "packed",
    [
        craft(12, "os:system", {"command": "true"}),
        craft(12, "subprocess:Popen", {}),
        craft(12, "builtins:list", {}),
        craft(12, f"{__name__}:OwnInt", {}),
        craft(12, f"{__name__}:Point", {"x": 1, "extra": 2}),
        craft(12, f"{__name__}:Point", {"y": 2}),
        craft(12, f"{__name__}:Outer.__dict__", {}),
        craft(12, f"{__name__}:dataclasses.Field", {}),
        craft(11, f"{__name__}:Point", "x"),
        craft(11, f"{__name__}:Colour", "GREEN"),
        craft(11, "antigravity:geohash", "x"),
        craft(11, "", ""),
        craft(14, f"{__name__}:Colour", 1),
        craft(14, f"{__name__}:Rights", 1 << 20),
        craft(4, 2026, 13, 1, 0, 0, 0, 0, 0, None),
        craft(4, 2026, 1, 1, 0, 0, 0, 0, 0, "../../etc/passwd"),
        craft(4, 2026),
        craft(2, [1]),
        craft(99, 1),
        b"",
        b"\xc1",
        b"\x92\x01",
        b"\x01\x02",
    ],
)
def test_decoding_is_strict(packed: bytes) -> None:
    with pytest.raises(SerializationError):
        serde.decode(packed)


def test_a_module_is_never_loaded_because_stored_data_names_it() -> None:
    import sys

    sys.modules.pop("this", None)
    with pytest.raises(SerializationError):
        serde.decode(craft(12, "this:Zen", {}))
    assert "this" not in sys.modules


def test_a_new_field_with_a_default_is_filled_in() -> None:
    assert serde.decode(craft(12, f"{__name__}:Point", {"x": 1})) == Point(1)


def test_sizes_are_checked_at_the_limit() -> None:
    around = len(serde.encode_args((b"",), {})) + 3  # A longer bin header: 1 byte becomes 4, less the one counted.
    fitting = serde.ARGS_BYTES_MAX - around
    while len(serde.encode_args((b"x" * fitting,), {})) < serde.ARGS_BYTES_MAX:
        fitting += 1
    assert len(serde.encode_args((b"x" * fitting,), {})) == serde.ARGS_BYTES_MAX
    with pytest.raises(PayloadTooLarge, match="262,145"):
        serde.encode_args((b"x" * (fitting + 1),), {})
    with pytest.raises(PayloadTooLarge):
        serde.encode_args(([b"x" * (fitting + 1)],), {})
    with pytest.raises(PayloadTooLarge):
        serde.encode("x" * serde.RESULT_BYTES_MAX)


def test_equal_values_have_equal_canonical_bytes() -> None:
    assert serde.canonical([{"a": 1, "b": {2, 3}}]) == serde.canonical([{"b": {3, 2}, "a": 1}])
    assert serde.canonical([1]) != serde.canonical([True])
    assert serde.canonical([(1,)]) != serde.canonical([[1]])


def test_descriptions_need_no_class() -> None:
    gone = msgpack.packb([[msgpack.ExtType(12, msgpack.packb(["gone.shop:User", {"id": 7}]))], {"level": (1)}])
    assert descriptions.describe_args(gone) == "User(id=7), level=1"
    assert descriptions.describe(serde.encode((1, {2}, Colour.RED))) == "(1, {2}, Colour.RED)"
    assert descriptions.describe(serde.encode("x" * 500)).endswith("...")
