"""The filter language: which jobs a person means. One parser for the API, the command line and the page.

    state:failed fn:mail.* queue:default,low tag:eu error:TimeoutError args.user.id:42 since:2h age>10m attempt>=3

Terms are separated by spaces and must all hold. Values behind one colon are separated by commas, and one must hold.

| term                                   | means                                                                       |
|----------------------------------------|-----------------------------------------------------------------------------|
| `state:failed,cancelled`               | the state                                                                   |
| `fn:` `queue:` `tag:` `unique:`        | function, queue, a tag, unique key; `mail.*` begins so, `*mail*` contains |
| `error:TimeoutError`                   | type of the last error, with or without its module                          |
| `fingerprint:` `schedule:`             | fingerprint of the last error; name of the schedule that it comes from      |
| `id:0192a3...`                         | the id, or its first digits                                                 |
| `batch:` `parent:`                     | likewise, of its batch, and of a job or batch that it waits or waited for   |
| `args.user.id:42` `args.0:x` `args.n>3` | an argument: keyword or position, then keys and positions                  |
| `attempt>=3` `crashes:1` `priority<0`  | figures, also `generation`                                                  |
| `since:2h` `until:2026-11-22T10:00Z`   | created then or later, then or earlier                                      |
| `age>10m`                              | created longer ago than that                                                |
| `finished>2h`                          | a moment: later than an instant, or than so long ago; `>` `>=` `<` `<=` |
|                                        | for `created`, `enqueued`, `started`, `finished`, `due`                     |
| `mail.se` or `"0192 a"`                | free text: the function or the id begins so                                 |

Quotes take everything literally: `queue:"a b,c"`, with `\\"` and `\\\\` inside. An argument's value is tried as a
number, `true`, `false` or `null` as well as text, unless it is quoted: then it is text only. `=` may stand for `:`.
"""

from __future__ import annotations

import difflib
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, NoReturn, TypeAlias

from raftwork import clock, durations
from raftwork.errors import InvalidFilter, InvalidOption
from raftwork.job_info import JobState

__all__ = ["Clause", "format", "literal", "parse"]

Clause: TypeAlias = tuple[str, str, Sequence[Any]]
"""Field, operator, alternatives: what a storage is asked."""

TERMS_MAX = 64
VALUES_MAX = 1_000
STEPS_MAX = 16

_TEXTS = {
    "fn": "function",
    "function": "function",
    "queue": "queue",
    "tag": "tag",
    "error": "error",
    "unique": "unique",
    "schedule": "schedule",
    "fingerprint": "fingerprint",
}
_IDS = ("id", "batch", "parent")
_NUMBERS = ("attempt", "crashes", "priority", "generation")
_MOMENTS = {name: f"{name}_ms" for name in ("created", "enqueued", "started", "finished")} | {"due": "run_at_ms"}
_FIELDS = ("state", *_IDS, "since", "until", "age", *_TEXTS, *_NUMBERS, *_MOMENTS)
_SHORT = {"function": "fn"} | {field: name for name, field in _MOMENTS.items()}

_HEAD = re.compile(r'(?P<field>[A-Za-z_][^\s:=<>",*]*)(?P<operator>:|=|<=|>=|<|>)')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r'[^\s,"]+')
_INT = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_HEX = re.compile(r"[0-9a-f-]{1,36}", re.ASCII)
_WORDS = {"true": True, "false": False, "null": None}
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_OPPOSITE = {">": "<", ">=": "<=", "<": ">", "<=": ">="}


class _Value(NamedTuple):
    """One alternative as it was typed."""

    text: str
    quoted: bool
    position: int


def parse(text: str, *, now_ms: int | None = None) -> list[Clause]:
    """Read a filter. Empty text gives no clause, which means every job.

    Args:
        text: the filter; see the language at the head of this module.
        now_ms: what `since:2h` counts from; the present if None.

    Raises:
        InvalidFilter: it cannot be read. The message shows where and what to write instead.

    Example:
        >>> parse("state:failed attempt>=3")
        [('state', '=', ['failed']), ('attempt', '>=', [3])]
    """
    return _Parser(text, clock.now_ms() if now_ms is None else now_ms).terms()


def format(clauses: Iterable[Clause]) -> str:
    """The shortest text that `parse` reads as these clauses. Moments become instants in UTC.

    Raises:
        ValueError: no text means one of them; `parse` never gives such a clause.
    """
    return " ".join(map(_format_clause, clauses))


def literal(value: str) -> str:
    """A value as it is written in a filter so that all of it is the value. Stars keep their meaning.

    Example:
        >>> "queue:" + literal("a b")
        'queue:"a b"'
    """
    # One that begins with = would become part of the operator before it.
    return value if _BARE.fullmatch(value) and value[0] != "=" else _quote(value)


class _Parser:
    def __init__(self, text: str, now_ms: int) -> None:
        self.text = text
        self.now_ms = now_ms
        self.at = 0

    def terms(self) -> list[Clause]:
        found: list[Clause] = []
        while self._skip_spaces():
            if len(found) == TERMS_MAX:
                self._fail(self.at, f"more than {TERMS_MAX} terms", "Leave some out.")
            found.append(self._term())
            if self.at < len(self.text) and not self.text[self.at].isspace():
                self._fail(self.at, f"{self.text[self.at]!r} stands between two terms", "Put a space before it.")
        return found

    def _skip_spaces(self) -> bool:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at < len(self.text)

    def _term(self) -> Clause:
        start = self.at
        head = _HEAD.match(self.text, start)
        if head is None:
            return self._free_text()
        self.at = head.end()
        field, operator = head["field"], "=" if head["operator"] == ":" else head["operator"]
        if field not in _FIELDS and not field.startswith("args."):
            self._unknown(field, start)
        values = self._values(head[0])
        if field == "state":
            return self._state(values, operator, start)
        if field in _IDS:
            return self._id(field, values, operator, start)
        if field in _TEXTS:
            self._only_colon(field, operator, start)
            return (_TEXTS[field], *self._patterns(values))
        if field in _NUMBERS:
            return (field, operator, [self._whole(value, field) for value in values])
        if field.startswith("args."):
            return self._argument(field, operator, values, start)
        return self._moment(field, operator, values, start)

    def _free_text(self) -> Clause:
        position = self.at
        value = self._value(None)
        if value.quoted or "*" not in value.text:
            if not value.text:
                self._fail(position, "an empty text", "Leave it out, or write what the function begins with.")
            return ("text", "prefix", [value.text])
        return ("function", *self._patterns([value]))

    def _values(self, head: str) -> list[_Value]:
        values = [self._value(head)]
        while self.text[self.at : self.at + 1] == ",":
            self.at += 1
            values.append(self._value(head))
            if len(values) > VALUES_MAX:
                self._fail(self.at, f"more than {VALUES_MAX} values", "Leave some out.")
        return values

    def _value(self, head: str | None) -> _Value:
        position = self.at
        if self.text[position : position + 1] == '"':
            quoted = _QUOTED.match(self.text, position)
            if quoted is None:
                self._fail(position, "a quote that is not closed", 'Close it with ", and write \\" for a quote inside.')
            self.at = quoted.end()
            return _Value(re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL), True, position)
        bare = _BARE.match(self.text, position)
        if bare is None:
            behind = "a term begins with a comma" if head is None else f"no value behind {head!r}"
            self._fail(position, behind, 'Write one without a space before it; "" is the empty text.')
        self.at = bare.end()
        return _Value(bare[0], False, position)

    def _state(self, values: list[_Value], operator: str, start: int) -> Clause:
        self._only_colon("state", operator, start)
        names = [str(state) for state in JobState]
        for value in values:
            if value.text not in names:
                self._fail(value.position, f"{value.text!r} is not a state", f"States are {', '.join(names)}.")
        return ("state", "=", [value.text for value in values])

    def _id(self, field: str, values: list[_Value], operator: str, start: int) -> Clause:
        self._only_colon(field, operator, start)
        texts = [value.text.lower().removesuffix("*") for value in values]
        for text, value in zip(texts, values, strict=True):
            if not _HEX.fullmatch(text) or not text.replace("-", ""):
                self._fail(
                    value.position, f"{value.text!r} is not an id or its beginning", "Ids look like 0192a3f4-..."
                )
        if all(len(text.replace("-", "")) == 32 for text in texts):
            return (field, "=", [uuid.UUID(text).bytes for text in texts])
        return (field, "prefix", texts)

    def _patterns(self, values: list[_Value]) -> tuple[str, list[str]]:
        read = [(*self._pattern(value), value.position) for value in values]
        operator = read[0][0]
        for other, text, position in read:
            if other != operator:
                way_out = "Write two searches, or use the same kind of pattern for each value."
                self._fail(position, f"{text!r} mixes names and patterns in one term", way_out)
        return operator, [text for _, text, _ in read]

    def _pattern(self, value: _Value) -> tuple[str, str]:
        if value.quoted or "*" not in value.text:
            return "=", value.text
        inside = value.text.strip("*")
        if inside and "*" not in inside:
            if value.text == f"{inside}*":
                return "prefix", inside
            if value.text == f"*{inside}*":
                return "contains", inside
        way_out = "Write name* for names that begin so, *name* for names that contain it, or put a real star in quotes."
        return self._fail(value.position, f"the pattern {value.text!r} is not supported", way_out)

    def _whole(self, value: _Value, field: str) -> int:
        if value.quoted or not _INT.fullmatch(value.text) or not _INT_MIN <= int(value.text) <= _INT_MAX:
            self._fail(value.position, f"{value.text!r} is not a whole number", f"Write for example {field}>=3.")
        return int(value.text)

    def _argument(self, field: str, operator: str, values: list[_Value], start: int) -> Clause:
        steps = field.split(".")[1:]
        if len(steps) > STEPS_MAX or not all(steps):
            way_out = "Write args.name, args.0, or args.name.key."
            self._fail(start, f"{field!r} is not a path of 1 to {STEPS_MAX} names", way_out)
        if operator == "=" and any("*" in value.text and not value.quoted for value in values):
            return (field, *self._patterns(values))
        return (field, operator, [typed for value in values for typed in _readings(value)])

    def _moment(self, field: str, operator: str, values: list[_Value], start: int) -> Clause:
        if len(values) > 1:
            self._fail(values[1].position, f"{field} takes one value", "Leave the others out.")
        instant = self._instant(values[0], field)
        if field in ("since", "until"):
            self._only_colon(field, operator, start)
            return ("created_ms", ">=" if field == "since" else "<=", [instant])
        if operator == "=":
            self._fail(start, f"{field} needs a comparison", f"Write for example {field}>2h.")
        if field == "age":
            return ("created_ms", _OPPOSITE[operator], [instant])
        return (_MOMENTS[field], operator, [instant])

    def _instant(self, value: _Value, field: str) -> int:
        """Milliseconds since 1970 of an instant, or of a length of time before now."""
        if value.text[:4].isdigit() and field != "age":
            try:
                instant = datetime.fromisoformat(value.text)
            except ValueError:
                pass
            else:
                if instant.utcoffset() is None:
                    way_out = f"Add one: {value.text}{'T00:00' if len(value.text) == 10 else ''}Z for UTC, or +01:00."
                    self._fail(value.position, f"{value.text!r} has no time zone", way_out)
                return clock.to_ms(instant)
        try:
            return max(0, self.now_ms - durations.duration_ms(value.text, field))
        except InvalidOption:
            way_out = "Write a length of time such as 10m, 2h, 1d12h" + (
                "." if field == "age" else ", or an instant such as 2026-11-22T10:00Z."
            )
            self._fail(value.position, f"{value.text!r} is not a time", way_out)

    def _only_colon(self, field: str, operator: str, start: int) -> None:
        if operator != "=":
            self._fail(start, f"{field} cannot be compared with {operator}", f"Write {field}:value.")

    def _unknown(self, field: str, position: int) -> NoReturn:
        near = difflib.get_close_matches(field, _FIELDS, 1)
        meant = f"Did you mean {near[0]}? " if near else ""
        known = ", ".join(sorted({*_FIELDS, "args.NAME"}))
        self._fail(position, f"unknown field {field!r}", f"{meant}Fields are {known}. For plain text use quotes.")

    def _fail(self, position: int, what: str, way_out: str) -> NoReturn:
        shown = self.text if len(self.text) <= 200 else f"{self.text[:200]}..."
        raise InvalidFilter(f"Filter {shown!r}, character {position + 1}: {what}. {way_out}", position)


def _readings(value: _Value) -> list[Any]:
    """What the text of an argument may mean."""
    text = value.text
    if value.quoted:
        return [text]
    if text in _WORDS:
        return [_WORDS[text], text]
    if _INT.fullmatch(text) and _INT_MIN <= int(text) <= _INT_MAX:
        return [int(text), text]
    if _FLOAT.fullmatch(text) and abs(float(text)) != float("inf"):
        return [float(text), text]
    return [text]


# Back to text ---------------------------------------------------------------------------------------------------------


def _format_clause(clause: Clause) -> str:
    field, operator, values = clause
    write: Callable[[Any], str]
    if field == "text":
        return _bare(values[0])
    if field in _IDS:
        return f"{field}:" + ",".join(str(uuid.UUID(bytes=v)) if isinstance(v, bytes) else v for v in values)
    if field in _MOMENTS.values():
        return _format_moment(field, operator, values[0])
    if field.startswith("args.") and operator not in ("prefix", "contains"):
        return f"{field}{_sign(operator)}{','.join(_typed(list(values)))}"
    if operator == "prefix":
        write = _star_behind
    elif operator == "contains":
        write = _stars_around
    else:
        write = _word
    return f"{_SHORT.get(field, field)}{_sign(operator)}{','.join(map(write, values))}"


def _sign(operator: str) -> str:
    return ":" if operator in ("=", "prefix", "contains") else operator


def _format_moment(field: str, operator: str, ms: int) -> str:
    instant = clock.from_ms(ms).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    if field == "created_ms" and operator in (">=", "<="):
        return f"{'since' if operator == '>=' else 'until'}:{instant}"
    return f"{_SHORT[field]}{operator}{instant}"


def _word(value: Any) -> str:
    text = str(value)
    return _quote(text) if "*" in text else literal(text)


def _bare(text: str) -> str:
    """A free text: in quotes also when it would look like a term."""
    return _quote(text) if _HEAD.match(text) else _word(text)


def _star_behind(text: str) -> str:
    return f"{_pattern_text(text)}*"


def _stars_around(text: str) -> str:
    return f"*{_pattern_text(text)}*"


def _pattern_text(text: str) -> str:
    if not _BARE.fullmatch(text) or "*" in text:
        raise ValueError(f"The filter language has no pattern for {text!r}.")
    return text


def _typed(values: list[Any]) -> list[str]:
    """Values of an argument: a typed one and its text, which stand for one word, are written as that word."""
    texts = []
    while values:
        value = values.pop(0)
        if isinstance(value, str):
            texts.append(_word(value) if _readings(_Value(value, False, 0)) == [value] else _quote(value))
            continue
        plain = next((word for word, meant in _WORDS.items() if meant is value), None) or repr(value)
        if values and isinstance(values[0], str) and _same(_readings(_Value(values[0], False, 0)), [value, values[0]]):
            plain = values.pop(0)
        texts.append(plain)
    return texts


def _same(one: list[Any], other: list[Any]) -> bool:
    return one == other and [type(value) for value in one] == [type(value) for value in other]


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
