"""What one row of the outbox holds: a job that is not stored yet, in bytes.

| offset | bytes | field                                                              |
|--------|-------|--------------------------------------------------------------------|
| 0      | 1     | version, 1                                                         |
| 1      | 4     | crc32 over the job's id and the body, big-endian                   |
| 5      | n     | body: MessagePack map of the fields of the job and of its `spec`   |

Fields go by name, and those at their default are left out. So a relay of this version takes what an older one wrote,
and refuses what a newer one means by a field that it does not know, instead of dropping it.
"""

from __future__ import annotations

import dataclasses
import typing
import uuid
import zlib
from typing import Any, Final

import msgspec

from raftwork.errors import InvalidOption, PayloadDamaged
from raftwork.storage.base import JobSpec, NewJob

__all__ = ["pack_row", "read_row"]

VERSION: Final = 1
HEAD_BYTES: Final = 5

_SPEC_FIELDS: Final = [field for field in dataclasses.fields(JobSpec) if field.init]
_SPEC_TYPES: Final = typing.get_type_hints(JobSpec)
_JOB_TYPES: Final = {name: kind for name, kind in typing.get_type_hints(NewJob).items() if name not in ("id", "spec")}
_encode = msgspec.msgpack.Encoder().encode


def _struct(name: str, fields: list[tuple[str, Any, Any]]) -> Any:
    typed = [
        (field, kind) if default is msgspec.NODEFAULT else (field, kind, default) for field, kind, default in fields
    ]
    return msgspec.defstruct(name, typed, forbid_unknown_fields=True, kw_only=True)


def _default(field: dataclasses.Field[Any]) -> Any:
    return msgspec.NODEFAULT if field.default is dataclasses.MISSING else field.default


_Spec: Any = _struct("Spec", [(field.name, _SPEC_TYPES[field.name], _default(field)) for field in _SPEC_FIELDS])
_Body: Any = _struct(
    "Body",
    [
        ("spec", _Spec, msgspec.NODEFAULT),
        *((n, kind, NewJob._field_defaults.get(n, msgspec.NODEFAULT)) for n, kind in _JOB_TYPES.items()),
    ],
)
_decode = msgspec.msgpack.Decoder(_Body).decode


def pack_row(job: NewJob) -> bytes:
    """The bytes of a row."""
    spec = {field.name: value for field in _SPEC_FIELDS if (value := getattr(job.spec, field.name)) != _default(field)}
    rest = {name: value for name in _JOB_TYPES if (value := getattr(job, name)) != NewJob._field_defaults.get(name)}
    body = _encode({"spec": spec, **rest})
    return bytes((VERSION,)) + zlib.crc32(job.id + body).to_bytes(4, "big") + body


def read_row(id: str, stored: bytes) -> NewJob:
    """The job that `pack_row` was given.

    Raises:
        PayloadDamaged: these are not the bytes that were written for this id.
        InvalidOption: they are, but of a version that knows more; the message names it.
    """
    try:
        job = uuid.UUID(id).bytes
    except ValueError:
        raise PayloadDamaged(f"The row's id {id!r:.60} is no job id.") from None
    if len(stored) < HEAD_BYTES:
        raise PayloadDamaged(f"The row has {len(stored)} bytes; it is cut short.")
    if stored[0] != VERSION:
        raise InvalidOption(
            f"The row is of version {stored[0]}, and this relay knows {VERSION}. Relay it with a newer one."
        )
    body = stored[HEAD_BYTES:]
    if zlib.crc32(job + body) != int.from_bytes(stored[1:HEAD_BYTES], "big"):
        raise PayloadDamaged("The row's bytes are not those that were written for this job.")
    try:
        read = _decode(body)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InvalidOption(
            f"The row asks for what this relay does not know: {error}. Relay it with a newer one."
        ) from None
    spec = JobSpec(**{field.name: getattr(read.spec, field.name) for field in _SPEC_FIELDS})
    return NewJob(id=job, spec=spec, **{name: getattr(read, name) for name in _JOB_TYPES})
