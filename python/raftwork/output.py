"""The result of a job that has not run yet, as an argument of another one."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
from msgspec.msgpack import Ext

from raftwork.errors import InvalidOption, ParentMissing, SerializationError

__all__ = ["Output", "ParentOutput", "check_known", "fill_outputs", "hide_outputs"]

_pack = msgspec.msgpack.Encoder().encode


class Output:
    """Stands for what a job will return: `job.output` as an argument of a later `enqueue`."""

    __slots__ = ("job",)

    def __init__(self, job: bytes) -> None:
        self.job = job

    def place_in(self, outputs: dict[bytes, int] | None, path: str, shown: str) -> bytes:
        """The wire form: its place among the jobs whose output is used, where it is added when it is new."""
        if outputs is None:
            raise SerializationError(
                f"{shown} is {self!r}. An output can be an argument of `enqueue`, also inside of lists, tuples and the "
                "values of dicts, and nothing else.",
                path,
            )
        return outputs.setdefault(self.job, len(outputs)).to_bytes(4, "big")

    def __repr__(self) -> str:
        return f"<the output of {uuid.UUID(bytes=self.job)}>"


class ParentOutput:
    """The same in stored arguments: the place of a parent among those of the job."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position

    def __repr__(self) -> str:
        return f"<the output of parent {self.position + 1}>"


def check_known(task: str, option: str, parameter: str, value: Any) -> None:
    """Refuse to make a key of an argument that is the output of a job, or has one inside: nobody knows it yet.

    Raises:
        InvalidOption: it is so.
    """
    if _has_output(value):
        raise _unknown(task, option, parameter)


def _unknown(task: str, option: str, parameter: str) -> InvalidOption:
    return InvalidOption(
        f"{option} of {task} makes a key of {parameter!r}, which takes the output of a job that has not run yet. "
        f"Let {option} name other parameters, or enqueue {task} when the result is there."
    )


def _has_output(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_output, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_output, value))
    return isinstance(value, Output)


class _Unknown:
    """Stands for an output in a call of a function that makes a key: whatever it does with it raises `error`."""

    __slots__ = ("error",)

    def __init__(self, error: InvalidOption) -> None:
        self.error = error


def _raise(self: _Unknown, *_: object) -> NoReturn:
    raise self.error


# Python looks for these on the class, so each has to be there. It may be passed on, and nothing else.
_VERBS = (
    "bool bytes call contains delitem enter eq float format ge getattr getitem gt hash index int iter le len lt ne "
    "next repr reversed round setitem str abs add and floordiv invert matmul mod mul neg or pos pow radd rand "
    "rfloordiv rmatmul rmod rmul ror rpow rsub rtruediv rxor sub truediv xor"
)
for _name in _VERBS.split():
    setattr(_Unknown, f"__{_name}__", _raise)


def hide_outputs(task: str, option: str, parameter: str, value: Any) -> Any:
    """An argument for a function that makes a key. If it is an output, or has one inside, looking at that raises."""
    if not _has_output(value):
        return value
    if isinstance(value, Output):
        return _Unknown(_unknown(task, option, parameter))
    if isinstance(value, dict):
        return {key: hide_outputs(task, option, parameter, item) for key, item in value.items()}
    items = [hide_outputs(task, option, parameter, item) for item in value]
    if isinstance(value, list):
        return items
    return value._make(items) if hasattr(value, "_make") else tuple(items)


def fill_outputs(packed: bytes, outputs: Mapping[int, bytes]) -> bytes:
    """Arguments with the outputs of parents in their places. Loads no class: results stay as they were encoded.

    Raises:
        SerializationError: the bytes are damaged.
        ParentMissing: there is no result for one of the places.
    """

    def fill(code: int, body: memoryview) -> Any:
        if code == 17:
            position = int.from_bytes(body, "big")
            if position not in outputs:
                raise ParentMissing(
                    f"An argument is the output of parent {position + 1}, which ended without one. "
                    "Requeue that parent: it takes this job along."
                )
            return msgspec.Raw(outputs[position])
        # The items of tuples, and of dicts with keys of other types.
        return Ext(code, _pack(read(bytes(body))) if code in (1, 15) else bytes(body))

    read = msgspec.msgpack.Decoder(ext_hook=fill).decode
    try:
        return _pack(read(packed))
    except (ParentMissing, SerializationError):
        raise
    except Exception as error:
        raise SerializationError(f"The stored arguments cannot be read: {error}.") from error
