"""Compression: what comes out is what went in, nodes still read small values, no stream takes more than it may."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftwork import ConfigError, PayloadDamaged, serde
from raftwork.codecs import COMPRESS_ABOVE, PLAIN, Codecs, Kind, is_plain
from raftwork.config import Config

ID = bytes(range(16))
SMALL = Codecs(compress_above=16)
WHOLE = [Kind.RESULT, Kind.STATE, Kind.PROGRESS]

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.binary()
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | st.builds(
    str.__mul__, st.just("ab "), st.integers(0, 500)
)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


@given(st.lists(values, max_size=4), st.dictionaries(texts, values, max_size=4))
def test_arguments_come_back_as_they_were(args: list[Any], kwargs: dict[str, Any]) -> None:
    packed = serde.encode_args(tuple(args), kwargs)
    stored = SMALL.seal(ID, Kind.ARGS, packed)
    assert PLAIN.open(ID, Kind.ARGS, stored) == packed
    assert not is_plain(stored) or stored == packed
    assert len(stored) <= len(packed)


def test_a_quick_look_tells_plain_arguments_from_others() -> None:
    packed = serde.encode_args((7,), {"body": "x" * 500})
    assert is_plain(packed)
    assert not is_plain(SMALL.seal(ID, Kind.ARGS, packed)), "compressed"
    assert not is_plain(msgspec.msgpack.encode(msgspec.msgpack.Ext(33, b"sealed")))
    assert not is_plain(b"")


@given(values, st.sampled_from(WHOLE))
def test_a_value_comes_back_as_it_was(value: Any, kind: Kind) -> None:
    packed = serde.encode(value, bytes_max=serde.STATE_BYTES_MAX)
    stored = SMALL.seal(ID, kind, packed)
    assert PLAIN.open(ID, kind, stored) == packed
    assert len(stored) <= len(packed)


def test_only_large_arguments_are_compressed() -> None:
    packed = serde.encode_args((7, "x" * 5_000), {"user_id": 8, "body": "y" * 5_000})
    stored = Codecs(COMPRESS_ABOVE).seal(ID, Kind.ARGS, packed)
    assert len(stored) < 300
    (first, large), kwargs = msgspec.msgpack.decode(stored)
    assert (first, kwargs["user_id"]) == (7, 8)
    assert large.code == kwargs["body"].code == 32


def test_what_does_not_shrink_or_is_small_stays_as_it_is() -> None:
    noise = serde.encode(zlib.compress(b"".join(zlib.crc32(bytes([n])).to_bytes(4, "big") for n in range(250))))
    assert SMALL.seal(ID, Kind.RESULT, noise) == noise
    short = serde.encode("x" * 10)
    assert SMALL.seal(ID, Kind.RESULT, short) is short
    large = serde.encode("x" * 10_000)
    assert PLAIN.seal(ID, Kind.RESULT, large) is large


def compressed(stream: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(32, stream))


BOMB = zlib.compress(b"\0" * (64 << 20), 1)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("stream", [BOMB, zlib.compress(b"x" * 90, 1)[:-1], b"\x78\x01", b"\x78\x01" + b"\xff" * 9,
                                    zlib.compress(b"x" * 90, 1) + b"y"])  # fmt: skip
def test_a_damaged_or_endless_stream_is_refused(kind: Kind, stream: bytes) -> None:
    with pytest.raises(PayloadDamaged, match=f"RW802 The stored {kind.name.lower()}"):
        PLAIN.open(ID, kind, compressed(stream))


@pytest.mark.parametrize("kind", WHOLE)
def test_a_stream_that_is_one_byte_too_long_is_refused(kind: Kind) -> None:
    room = serde.RESULT_BYTES_MAX if kind is Kind.RESULT else serde.STATE_BYTES_MAX
    assert len(PLAIN.open(ID, kind, compressed(zlib.compress(bytes(room), 1)))) == room
    with pytest.raises(PayloadDamaged, match="longer than the limit"):
        PLAIN.open(ID, kind, compressed(zlib.compress(bytes(room + 1), 1)))


def test_all_arguments_together_have_one_limit() -> None:
    half = compressed(zlib.compress(serde.encode("x" * (serde.ARGS_BYTES_MAX * 2 // 3)), 1))
    stored = b"\x92\x92" + half + half + b"\x80"
    with pytest.raises(PayloadDamaged, match="longer than the limit"):
        PLAIN.open(ID, Kind.ARGS, stored)


@given(st.binary(max_size=60), st.sampled_from(Kind))
def test_any_bytes_are_read_or_refused(noise: bytes, kind: Kind) -> None:
    for stored in (noise, b"\xc7\x20\x20\x78\x01" + noise, b"\x92\x91\xc7\x20\x20\x78\x01" + noise):
        try:
            PLAIN.open(ID, kind, stored)
        except PayloadDamaged:
            pass  # The only error there is.


@pytest.mark.parametrize("value", [127, "127", 262_145, "many", True, 1.5, ""])
def test_a_threshold_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="compress_above"):
        Config.load({"compress_above": value}, {})


def test_the_threshold_is_a_setting() -> None:
    assert Config.load({}, {})["compress_above"] == COMPRESS_ABOVE
    assert Config.load({}, {"RAFTWORK_COMPRESS_ABOVE": "none"})["compress_above"] is None
    assert Config.load({}, {"RAFTWORK_COMPRESS_ABOVE": "4096"})["compress_above"] == 4_096
