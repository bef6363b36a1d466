"""Commands and answers as the core speaks them, built with the reference MessagePack package."""

from __future__ import annotations

from typing import Any

import msgpack

from raftwork import _core


def pack(value: Any) -> bytes:
    return msgpack.packb(value, use_bin_type=True)


def unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, raw=False, strict_map_key=False)


def spec(function: str = "f", queue: str = "default", **changes: Any) -> list[Any]:
    fields: dict[str, Any] = {
        "function": function,
        "queue": queue,
        "priority": 0,
        "max_attempts": 3,
        "max_crashes": 3,
        "timeout_ms": None,
        "keep_result_ms": 86_400_000,
        "keep_failed_ms": 86_400_000,
        "tags": [],
        "unique_mode": 0,
        "unique_window_ms": None,
        "expires_ms": None,
        "crash_delay_ms": 0,
        "meta": b"",
    }
    fields.update(changes)
    return list(fields.values())


def enqueue(ids: list[bytes], *, delay_ms: int = 0, unique: str | None = None, **changes: Any) -> bytes:
    jobs = [[job_id, 0, b"\x90", delay_ms, None, unique] for job_id in ids]
    return pack([4, [spec(**changes)], jobs])


def submit(client: _core.Client, command: bytes, timeout: float | None = 10) -> Any:
    """The payload of an accepted command."""
    status, _index, payload = unpack(client.submit(command, timeout))
    assert status == 0
    return payload


def enqueue_one(client: _core.Client, **changes: Any) -> bytes:
    (job_id,) = _core.new_ids(1)
    assert submit(client, enqueue([job_id], **changes)) is None
    return job_id


def wish(*, queues: tuple[str, ...] = ("default",), functions: tuple[str, ...] = ("f",), prefetch: int = 1) -> bytes:
    return pack({"queues": [[q, 1] for q in queues], "functions": list(functions), "prefetch": prefetch})


def succeeded(claimed: bytes, result: bytes = b"\xc0") -> bytes:
    """The result for a claimed job that went well."""
    job_id, token = unpack(claimed)[:2]
    return pack([job_id, token, 0, result])


def lease(claimed: bytes) -> tuple[bytes, int]:
    job_id, token = unpack(claimed)[:2]
    return job_id, token


def detail(client: _core.Client, job_id: bytes) -> dict[str, Any] | None:
    _index, _staleness, found = unpack(client.view(pack([3, job_id])))
    return found


def enqueue_in_own_client(_number: int) -> str:
    """What a process of a pool does; it is found by the name of this module."""
    client = _core.Client.memory()
    job = enqueue_one(client)
    client.close(5)
    return job.hex()
