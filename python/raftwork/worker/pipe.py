"""Messages between the worker and one child process: MessagePack behind a length, over a socket pair.

| offset | bytes | field                                     |
|--------|-------|-------------------------------------------|
| 0      | 4     | length of the body, little-endian         |
| 4      | n     | body: `[kind, ...]`, one MessagePack array |

Both ends run the same version of raftwork, so there is no version field. A message is at most `MESSAGE_BYTES_MAX`.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import msgspec

__all__ = ["MESSAGE_BYTES_MAX", "Pipe", "PipeClosed"]

MESSAGE_BYTES_MAX = 2 << 20
"""Larger than the largest job with its saved state, and than the largest result."""

_HEAD = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class PipeClosed(Exception):
    """The other end is gone."""


class Pipe:
    """One end of the connection. Several threads may send; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._send_lock = threading.Lock()

    def fileno(self) -> int:
        """The descriptor to poll for incoming messages."""
        return self._end.fileno()

    def send(self, *message: Any) -> None:
        """Send one message whole. Raises `PipeClosed` when nobody listens any more."""
        body = _encode(message)
        if len(body) > MESSAGE_BYTES_MAX:
            raise ValueError(f"A message of {len(body)} bytes is larger than {MESSAGE_BYTES_MAX}.")
        try:
            with self._send_lock:
                self._end.sendall(_HEAD.pack(len(body)) + body)
        except OSError as error:
            raise PipeClosed from error

    def receive(self) -> list[Any]:
        """Wait for one message. Raises `PipeClosed` at the end of the stream."""
        (length,) = _HEAD.unpack(self._read(_HEAD.size))
        if length > MESSAGE_BYTES_MAX:
            raise PipeClosed(f"a message claims {length} bytes")
        message: list[Any] = _decode(self._read(length))
        return message

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = self._end.recv(min(count, 1 << 18))
            except OSError as error:
                raise PipeClosed from error
            if not part:
                raise PipeClosed
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
