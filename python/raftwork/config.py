"""Settings, from four places: the constructor, `RAFTWORK_*` in the environment, a file, the defaults.

The first place that has a setting wins. The file is `raftwork.toml` in the working directory, or the table
`[tool.raftwork]` of `pyproject.toml` there. Everything is read once, on first use, never at import. Each value
remembers where it came from, which `raftwork doctor` prints.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypedDict

from raftwork import codecs, keyring, network, serde
from raftwork.durations import Duration, duration_ms, instant_ms
from raftwork.errors import ConfigError, TaskError
from raftwork.options import UNSET, check_name
from raftwork.retry import check_attempts
from raftwork.secret import Masked

__all__ = ["SETTINGS", "Config", "Setting", "Settings", "Source"]


class Settings(TypedDict, total=False):
    """What the constructor of an application takes by name. Meanings, defaults and ranges: `SETTINGS`."""

    queue: str
    max_attempts: int
    max_crashes: int
    timeout: Duration | None
    keep_result: Duration
    keep_failed: Duration
    submit_timeout: Duration
    session_ttl: Duration
    segment_bytes: int | None
    snapshot_bytes: int | None
    max_jobs: int | None
    max_state_bytes: int | None
    compress_above: int | None
    encryption_keys: str | None
    encryption_key_file: str | os.PathLike[str] | None
    secrets_in_clear: bool
    listen: str | None
    listen_clients: str | None
    advertise: str | None
    advertise_clients: str | None
    members: str | Sequence[str] | None
    join: str | Sequence[str] | None
    node_name: str | None
    election_timeout: Duration | None
    snapshot_rate: int | None
    health_listen: str | None
    metrics_open: bool | None
    tls_ca: str | os.PathLike[str] | None
    tls_certificate: str | os.PathLike[str] | None
    tls_key: str | os.PathLike[str] | None
    insecure: str | None
    token: str | None
    token_file: str | os.PathLike[str] | None
    first_token: str | None
    client_rate: int | None
    max_clients: int | None
    follower_log_bytes: int | None
    cluster_id: str | None
    release: str | datetime | None
    outbox: str | None


class Setting(NamedTuple):
    """One row of the table of settings."""

    check: Callable[[Any], Any]
    """Turns what the user wrote into the plain form, or raises."""
    default: Any
    meaning: str
    """What it does and its range, for the reference."""


class Source(NamedTuple):
    """Where one value came from."""

    name: str
    value: Any
    place: str
    """`constructor`, `environment RAFTWORK_...`, the path of a file, or `default`."""


def _duration(name: str, least_ms: int, most_ms: int | None = None) -> Callable[[Any], int]:
    if most_ms is None:
        return lambda value: duration_ms(value, name, least_ms=least_ms)
    return lambda value: duration_ms(value, name, least_ms=least_ms, most_ms=most_ms)


def _whole(name: str, least: int, most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        number = int(value) if isinstance(value, str) and value.strip().lstrip("-").isdecimal() else value
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise ConfigError(f"{name}={value!r} is not a whole number from {least:,} to {most:,}.")
        return number

    return check


def _truth(name: str) -> Callable[[Any], bool]:
    return lambda value: network.check_truth(value, name)


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None or value == "none" else check(value)


def _url(value: Any) -> str:
    if not isinstance(value, str) or "://" not in value:
        raise ConfigError(
            f"storage={value!r} is not a URL. Write raft:///jobs (a directory here), raft:////var/lib/jobs (absolute), "
            "raftwork://host:port (a cluster) or memory://."
        )
    return value


def _attempts(value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    return check_attempts(number, "max_attempts")


def _release(value: Any) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ConfigError(f"release={value!r} is not a time. Write one such as 2026-11-30T12:00:00Z.") from None
    return instant_ms(value, "release")


def _outbox(value: Any) -> str:
    if not isinstance(value, str) or "://" not in value:
        raise ConfigError("outbox is not a URL. Write sqlite:///shop.db or postgresql://user@host/database.")
    # A password may be in several places of a URL, and only the library that connects finds it in all of them.
    return value if value.partition(":")[0].partition("+")[0].lower() == "sqlite" else Masked(value)


def _networked(name: str, meaning: str) -> Setting:
    return Setting(_optional(network.CHECKS[name]), None, meaning)


SETTINGS: Final[dict[str, Setting]] = {
    "storage": Setting(
        _url,
        "raft:///.raftwork",
        "Where jobs live: raft:///relative, raft:////absolute, raftwork://host:port,host:port, memory://.",
    ),
    "queue": Setting(lambda value: check_name(value, "The queue"), "default", "Queue of tasks that name none."),
    "max_attempts": Setting(_attempts, 10, "Runs of a job whose task has no retry policy, 1 to 10,000."),
    "max_crashes": Setting(
        _whole("max_crashes", 1, 10_000), 3, "Deaths of its worker with which a job fails, 1 to 10,000."
    ),
    "timeout": Setting(_optional(_duration("timeout", 1)), None, "Longest run of a job; none: no limit."),
    "keep_result": Setting(
        _duration("keep_result", 0), 86_400_000, "How long a succeeded job and its result are kept."
    ),
    "keep_failed": Setting(_duration("keep_failed", 0), 14 * 86_400_000, "How long a failed or cancelled job is kept."),
    "submit_timeout": Setting(
        _duration("submit_timeout", 1, 3_600_000), 30_000, "Longest wait of one write before OutcomeUnknown, up to 1h."
    ),
    "session_ttl": Setting(
        _duration("session_ttl", 2_000, 600_000),
        15_000,
        "Silence after which a process counts as dead and its jobs go to others, 2s to 10m.",
    ),
    "segment_bytes": Setting(
        _optional(_whole("segment_bytes", 8 << 20, 1 << 30)), None, "Size of one file of the log, 8 MiB to 1 GiB."
    ),
    "snapshot_bytes": Setting(
        _optional(_whole("snapshot_bytes", 1 << 20, 1 << 34)),
        None,
        "Log written between two snapshots, 1 MiB to 16 GiB.",
    ),
    "max_jobs": Setting(
        _optional(_whole("max_jobs", 1, 10_000_000)),
        None,
        "Jobs in memory beyond which a node accepts no more, 1 to 10,000,000; none: as many.",
    ),
    "max_state_bytes": Setting(
        _optional(_whole("max_state_bytes", 1 << 20, 8 << 30)),
        None,
        "Memory of the state beyond which a node accepts no more jobs, 1 MiB to 8 GiB; none: 8 GiB.",
    ),
    "release": Setting(
        _optional(_release),
        None,
        "When this code was released, such as 2026-11-30T12:00:00Z: of two schedules in code, the newer counts; none: "
        "when the file of its task was changed.",
    ),
    "outbox": Setting(
        _optional(_outbox), None, "SQL database whose outbox is relayed by workers that start with --outbox."
    ),
    "compress_above": Setting(
        _optional(_whole("compress_above", 128, serde.RESULT_BYTES_MAX)),
        codecs.COMPRESS_ABOVE,
        "Bytes of an argument, result, saved state or progress note above which it is compressed; none: never.",
    ),
    "encryption_keys": Setting(
        _optional(keyring.check_keys), None, "Keys of payloads, ID:KEY,ID:KEY, the first encrypts; are shown nowhere."
    ),
    "encryption_key_file": Setting(
        _optional(lambda value: network.check_file("encryption_key_file", value)),
        None,
        "File that holds them, mode 0600, in place of encryption_keys.",
    ),
    "secrets_in_clear": Setting(
        _truth("secrets_in_clear"), False, "true: a Secret may be stored without an encryption key, in clear."
    ),
    "listen": _networked("listen", "Where this node listens for the other members, host:port; none: it is alone."),
    "listen_clients": _networked("listen_clients", "Where it listens for clients; none: the port after listen."),
    "advertise": _networked("advertise", "Where members reach what listens at listen; none: there."),
    "advertise_clients": _networked("advertise_clients", "Where clients reach what listens for them; none: there."),
    "members": _networked("members", "Where the first members listen for each other: a list, or text with commas."),
    "join": _networked("join", "Where members listen of a cluster that this node is to join, in place of members."),
    "node_name": _networked("node_name", "What people call this node; none: the address where others reach it."),
    "election_timeout": _networked(
        "election_timeout", "Silence of the leader after which another is elected, 200ms to 60s; none: 1s."
    ),
    "snapshot_rate": _networked(
        "snapshot_rate", "Bytes a second of a state on its way to another node, 1 MiB to 16 GiB; none: 64 MiB."
    ),
    "health_listen": _networked(
        "health_listen", "Where a node answers /livez, /readyz and /metrics over HTTP, host:port; none: nowhere."
    ),
    "metrics_open": _networked(
        "metrics_open",
        "true: /metrics also to other machines at health_listen, without encryption; none: it is refused.",
    ),
    "tls_ca": _networked("tls_ca", "File with the authority of all certificates of the cluster, PEM."),
    "tls_certificate": _networked("tls_certificate", "File with the own certificate, PEM."),
    "tls_key": _networked("tls_key", "File with its private key, PEM."),
    "insecure": _networked("insecure", "A sentence that allows connections without protection; see the cluster page."),
    "token": _networked("token", "What a client shows a cluster to say who it is; is shown nowhere."),
    "token_file": _networked("token_file", "File that holds the token, mode 0600, in place of token."),
    "first_token": _networked("first_token", "SHA-256 of a token that may do all in a cluster that this node begins."),
    "client_rate": _networked("client_rate", "Requests a second of one client at this node, 1 to 1,000,000,000."),
    "max_clients": _networked("max_clients", "Connections of clients at this node, 1 to 65,536; none: 1,024."),
    "follower_log_bytes": _networked(
        "follower_log_bytes",
        "Log kept in memory for members that fell behind, who need no snapshot then, 1 MiB to 16 GiB; none: 16 MiB.",
    ),
    "cluster_id": _networked("cluster_id", "The cluster that a client is of; none: the one that first answers it."),
}
"""Every setting: its check, default and meaning. Durations are in milliseconds once checked."""

_PREFIX = "RAFTWORK_"


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one application, checked, each with its source."""

    sources: dict[str, Source]

    def __getitem__(self, name: str) -> Any:
        return self.sources[name].value

    def rows(self) -> list[Source]:
        """All settings with the place each came from, in the order of the table."""
        return [self.sources[name] for name in SETTINGS]

    @classmethod
    def load(
        cls,
        given: Mapping[str, Any],
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> Config:
        """Read all places.

        Raises:
            ConfigError: an unknown name or a bad value, in whichever place.
        """
        environ = os.environ if environ is None else environ
        _check_environment(environ)
        path, file = _read_file(Path.cwd() if directory is None else directory)
        sources = {}
        for name, setting in SETTINGS.items():
            if given.get(name, UNSET) is not UNSET:
                value, place = given[name], "constructor"
            elif (variable := _PREFIX + name.upper()) in environ:
                value, place = environ[variable], f"environment {variable}"
            elif name in file:
                value, place = file[name], path
            else:
                sources[name] = Source(name, setting.default, "default")
                continue
            sources[name] = Source(name, _checked(name, setting, value, place), place)
        return cls(sources)


def check_given(given: Mapping[str, Any]) -> None:
    """Refuse unknown names and bad values of a constructor where it is called, not on first use."""
    for name, value in given.items():
        if name not in SETTINGS:
            raise ConfigError(_unknown(name, "constructor"))
        if value is not UNSET:
            _checked(name, SETTINGS[name], value, "constructor")


def _checked(name: str, setting: Setting, value: Any, place: str) -> Any:
    try:
        return setting.check(value)
    except ConfigError as error:
        raise ConfigError(f"{error.message} It comes from: {place}.") from None
    except TaskError as error:
        raise ConfigError(f"Setting {name}: {error.message} It comes from: {place}.") from None


def _check_environment(environ: Mapping[str, str]) -> None:
    """Refuse a variable that is nearly a setting: a typo that is ignored is found in production."""
    for variable in environ:
        name = variable.removeprefix(_PREFIX).lower()
        if variable.startswith(_PREFIX) and name not in SETTINGS and difflib.get_close_matches(name, SETTINGS, 1, 0.8):
            raise ConfigError(_unknown(name, f"environment {variable}"))


def _read_file(directory: Path) -> tuple[str, dict[str, Any]]:
    for name in ("raftwork.toml", "pyproject.toml"):
        path = directory / name
        try:
            with path.open("rb") as file:
                content = tomllib.load(file)
        except FileNotFoundError:
            continue
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}.") from error
        table = content if name == "raftwork.toml" else content.get("tool", {}).get("raftwork")
        if table is None:
            continue
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: tool.raftwork is not a table.")
        for key in table:
            if key not in SETTINGS:
                raise ConfigError(_unknown(key, str(path)))
        return str(path), table
    return "", {}


def _unknown(name: str, place: str) -> str:
    close = difflib.get_close_matches(name, SETTINGS, n=1)
    guess = f" Did you mean {close[0]}?" if close else f" Settings: {', '.join(SETTINGS)}."
    return f"{name} is not a setting ({place}).{guess}"
