"""What a job has saved: the state of `ctx.save` and the results of `ctx.step`, side by side in one payload.

| payload                     | meaning                                                            |
|-----------------------------|--------------------------------------------------------------------|
| a value of `raftwork.serde` | the state of a job without steps                                   |
| extension type 34           | MessagePack array `[state or nil, {step: result}]` of such values  |

So what was saved before there were steps is read as ever. Both together take at most `STATE_BYTES_MAX`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
from msgspec.msgpack import Ext

from raftwork.codecs import extension_code
from raftwork.errors import PayloadTooLarge, SerializationError, StepError
from raftwork.serde import STATE_BYTES_MAX

__all__ = ["Saved", "split"]

STEPS = 34

_encode = msgspec.msgpack.Encoder().encode
_read = msgspec.msgpack.Decoder(Ext).decode
_read_parts = msgspec.msgpack.Decoder(tuple[msgspec.Raw, dict[str, msgspec.Raw]]).decode

Sink = Callable[[bytes], object]
"""Takes the whole payload, to be stored."""


def split(packed: bytes | None) -> tuple[bytes | None, dict[str, bytes]]:
    """The encoded state and the encoded results of steps.

    Raises:
        SerializationError: the bytes are damaged.
    """
    if packed is None or extension_code(packed) != STEPS:
        return packed, {}
    try:
        state, steps = _read_parts(_read(packed).data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise SerializationError(f"The saved steps of the job cannot be read: {error}.") from None
    return bytes(state), {name: bytes(result) for name, result in steps.items()}


class Saved:
    """What one run of a job saves, on top of what earlier runs did. Threads of the job may share it."""

    __slots__ = ("_done", "_lock", "_running", "_steps", "state")

    def __init__(self, packed: bytes | None) -> None:
        self.state, self._steps = split(packed)
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._done: set[str] = set()
        """Steps that this run has done, and that are stored."""

    def begin(self, name: str) -> bytes | None:
        """The remembered result of a step; None if it is to be done now, with `end` in any case.

        Raises:
            StepError: this run has done it already, or does it at the moment.
        """
        with self._lock:
            if name in self._done or name in self._running:
                raise StepError(
                    f"The step {name!r} was used in this run already. Give each step a name of its own, in a loop such "
                    "as f'page:{number}': by its name it is found again after a retry."
                )
            result = self._steps.get(name)
            if result is None:
                self._running.add(name)
            else:
                self._done.add(name)
            return result

    def put(self, name: str, result: bytes, sink: Sink) -> None:
        """Hand over the result of a step that has begun."""
        with self._lock:
            steps = {**self._steps, name: result}
            sink(_joined(self.state, steps, f"the result of step {name!r}"))
            self._steps = steps

    def end(self, name: str, stored: bool) -> None:
        """The step has ended. One that failed, or is not known to be stored, is not remembered."""
        with self._lock:
            self._running.discard(name)
            if stored:
                self._done.add(name)
            else:
                self._steps.pop(name, None)

    def put_state(self, state: bytes, sink: Sink) -> None:
        """Hand over another state; steps stay."""
        with self._lock:
            sink(_joined(state, self._steps, "the state"))
            self.state = state


def _joined(state: bytes | None, steps: dict[str, bytes], what: str) -> bytes:
    if not steps and state is not None:
        return state
    parts = (msgspec.Raw(state or b"\xc0"), {name: msgspec.Raw(result) for name, result in steps.items()})
    packed = _encode(Ext(STEPS, _encode(parts)))
    if len(packed) > STATE_BYTES_MAX:
        raise PayloadTooLarge(
            f"With {what} the job has saved {len(packed):,} bytes in its state and {len(steps)} steps; at most "
            f"{STATE_BYTES_MAX:,} are kept. Store the data elsewhere and let the step answer its address."
        )
    return packed
