"""The filter language: what it means, that it can be written back, and that a mistake is shown where it is."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftwork import filters
from raftwork.errors import InvalidFilter, InvalidOption, TaskError

NOW = 1_800_000_000_000
ID = uuid.UUID("0192a3f4-5b6c-7d8e-9f00-112233445566")


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("", []),
        ("  ", []),
        ("state:failed", [("state", "=", ["failed"])]),
        ("state:failed,cancelled", [("state", "=", ["failed", "cancelled"])]),
        ("fn:mail.send", [("function", "=", ["mail.send"])]),
        ("fn:mail.*", [("function", "prefix", ["mail."])]),
        ("fn:*mail*", [("function", "contains", ["mail"])]),
        ("function:a.*,b.*", [("function", "prefix", ["a.", "b."])]),
        ("queue:default,low", [("queue", "=", ["default", "low"])]),
        ('queue:"a b,c"', [("queue", "=", ["a b,c"])]),
        (r'tag:"say \"hi\" \\ *"', [("tag", "=", ['say "hi" \\ *'])]),
        ("tag:eu tag:crm", [("tag", "=", ["eu"]), ("tag", "=", ["crm"])]),
        ("error:TimeoutError", [("error", "=", ["TimeoutError"])]),
        ("unique:invoice:7", [("unique", "=", ["invoice:7"])]),
        (f"id:{ID}", [("id", "=", [ID.bytes])]),
        (f"id:{ID.hex.upper()}", [("id", "=", [ID.bytes])]),
        ("id:0192A3f4-5", [("id", "prefix", ["0192a3f4-5"])]),
        (f"batch:{ID} parent:0192a3,77", [("batch", "=", [ID.bytes]), ("parent", "prefix", ["0192a3", "77"])]),
        ("schedule:nightly*", [("schedule", "prefix", ["nightly"])]),
        ("fingerprint:01ab,02cd", [("fingerprint", "=", ["01ab", "02cd"])]),
        ("args.user.id:42", [("args.user.id", "=", [42, "42"])]),
        ("args.user_id=7", [("args.user_id", "=", [7, "7"])]),
        ('args.code:"42"', [("args.code", "=", ["42"])]),
        ("args.0:a,b", [("args.0", "=", ["a", "b"])]),
        ("args.on:true", [("args.on", "=", [True, "true"])]),
        ("args.on:null", [("args.on", "=", [None, "null"])]),
        ("args.rate>=1.5", [("args.rate", ">=", [1.5, "1.5"])]),
        ("args.zip:007", [("args.zip", "=", ["007"])]),
        ("args.name:Ann*", [("args.name", "prefix", ["Ann"])]),
        ("attempt>=3 priority<0 crashes:1", [("attempt", ">=", [3]), ("priority", "<", [0]), ("crashes", "=", [1])]),
        ("since:2h", [("created_ms", ">=", [NOW - 7_200_000])]),
        ("until:2026-11-22T10:00Z", [("created_ms", "<=", [1_795_341_600_000])]),
        ("until:2026-11-22T11:00+01:00", [("created_ms", "<=", [1_795_341_600_000])]),
        ("age>10m", [("created_ms", "<", [NOW - 600_000])]),
        ("age<=1d", [("created_ms", ">=", [NOW - 86_400_000])]),
        ("finished>1h", [("finished_ms", ">", [NOW - 3_600_000])]),
        ("due<2026-11-22T10:00Z", [("run_at_ms", "<", [1_795_341_600_000])]),
        ("mail.se", [("text", "prefix", ["mail.se"])]),
        ("mail.*", [("function", "prefix", ["mail."])]),
        ('"a:b"', [("text", "prefix", ["a:b"])]),
        ("state:failed  0192", [("state", "=", ["failed"]), ("text", "prefix", ["0192"])]),
    ],
)
def test_each_term_means_what_the_table_says(text: str, clauses: list[filters.Clause]) -> None:
    found = filters.parse(text, now_ms=NOW)
    assert found == clauses
    assert [list(map(type, values)) for *_, values in found] == [list(map(type, values)) for *_, values in clauses]


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("state:faild", 6, "States are"),
        ("queue:a sate:failed", 8, "Did you mean state?"),
        ("http://x", 0, "use quotes"),
        ("state>failed", 0, "state:value"),
        ("fn:a,b.*", 5, "mixes"),
        ("fn:*", 3, "not supported"),
        ("fn:a*b", 3, "name*"),
        ('queue:"a b', 6, "not closed"),
        ("queue:", 6, "no value"),
        ("queue: a", 6, "no value"),
        ("queue:a,", 8, "no value"),
        (",", 0, "comma"),
        ('queue:"a"b', 9, "space"),
        ("attempt>=three", 9, "whole number"),
        ("attempt>=1.5", 9, "whole number"),
        ("attempt>=99999999999999999999", 9, "whole number"),
        ("since:2", 6, "not a time"),
        ("since:yesterday", 6, "10m"),
        ("since:2026-11-22", 6, "2026-11-22T00:00Z"),
        ("since:2026-11-22T10:00", 6, "time zone"),
        ("since:1h,2h", 9, "one value"),
        ("age:10m", 0, "age>2h"),
        ("age>2026-11-22T10:00Z", 4, "length of time"),
        ("finished:1h", 0, "comparison"),
        ("id:xyz", 3, "not an id"),
        ("batch:nightly", 6, "not an id"),
        ("parent>0192", 0, "parent:value"),
        ("finger:01ab", 0, "unknown field"),
        ("id:-", 3, "not an id"),
        ("args.:1", 0, "args.name"),
        ("args.a..b:1", 0, "path"),
        ('""', 0, "empty"),
        (" ".join(["a"] * 65), 128, "more than 64"),
    ],
)
def test_mistake_is_shown_where_it_is_with_a_way_out(text: str, position: int, says: str) -> None:
    with pytest.raises(InvalidFilter, match=re.escape(says)) as caught:
        filters.parse(text, now_ms=NOW)
    assert caught.value.position == position
    assert f"character {position + 1}:" in str(caught.value)
    assert str(caught.value).startswith("RW114 ")


def test_error_is_a_wrong_option_and_a_value_error() -> None:
    assert issubclass(InvalidFilter, InvalidOption | TaskError | ValueError)


def test_now_is_the_clock_by_default() -> None:
    early = filters.parse("since:1h")[0][2][0]
    late = filters.parse("since:1h")[0][2][0]
    assert early <= late


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
names = st.text("abcxyz_0.", min_size=1, max_size=8)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


values = st.one_of(names, words.map(quoted), st.integers().map(str), st.floats(allow_nan=False).map(str))
comparisons = st.sampled_from([":", "=", "<", "<=", ">", ">="])
terms = st.one_of(
    st.tuples(
        st.sampled_from(["fn", "queue", "tag", "error", "unique"]),
        st.just(":"),
        st.lists(values, min_size=1, max_size=3),
    ),
    st.tuples(st.sampled_from(["fn", "tag"]), st.just(":"), st.lists(names.map("{}*".format), min_size=1, max_size=3)),
    st.tuples(st.sampled_from(["queue", "args.x"]), st.just(":"), names.map("*{}*".format).map(lambda text: [text])),
    st.tuples(names.map("args.q{}q".format), comparisons, st.lists(values, min_size=1, max_size=4)),
    st.tuples(
        st.sampled_from(["attempt", "priority"]),
        comparisons,
        st.lists(st.integers(-9, 9).map(str), min_size=1, max_size=2),
    ),
    st.tuples(
        st.sampled_from(["age", "finished", "due", "created"]),
        st.sampled_from(["<", "<=", ">", ">="]),
        st.integers(0, 10_000).map(lambda minutes: [f"{minutes}m"]),
    ),
    st.tuples(st.sampled_from(["since", "until"]), st.just(":"), st.just(["2026-11-22T10:00:00.123Z"])),
    st.tuples(st.just("id"), st.just(":"), st.lists(st.uuids().map(str), min_size=1, max_size=2)),
    st.tuples(st.just(""), st.just(""), values.map(lambda text: [text]).filter(lambda text: text != ['""'])),
).map(lambda term: f"{term[0]}{term[1]}{','.join(term[2])}")


@given(st.lists(terms, max_size=4).map(" ".join))
def test_clauses_written_back_are_read_the_same(text: str) -> None:
    try:
        clauses = filters.parse(text, now_ms=NOW)
    except InvalidFilter as error:
        assert "path" in str(error), "the only mistake that these terms can make"
        return
    written = filters.format(clauses)
    again = filters.parse(written, now_ms=NOW)
    assert again == clauses
    assert [list(map(type, values)) for *_, values in again] == [list(map(type, values)) for *_, values in clauses]
    assert filters.format(again) == written


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        clauses = filters.parse(text, now_ms=NOW)
    except InvalidFilter as error:
        assert 0 <= error.position <= len(text)
    else:
        assert filters.parse(filters.format(clauses), now_ms=NOW) == clauses


def test_what_no_text_means_is_refused() -> None:
    with pytest.raises(ValueError, match="no pattern"):
        filters.format([("function", "prefix", ["a b"])])
