"""What a node needs to be one of several, and what a client needs to reach them: addresses, members, certificates.

Four ways to protect connections, and no fifth
* nothing is said: plain, and only between processes of one machine (127.0.0.1, ::1, localhost)
* `tls_ca`, `tls_certificate` and `tls_key`: TLS 1.3 with certificates on both sides, to any address
* `tls_ca` and a token, for clients: TLS 1.3 with the certificate of the cluster, and the token shown behind it
* `insecure` with its whole sentence, and RAFTWORK_ALLOW_INSECURE=1: plain, to any address. Each alone is refused
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Protocol

from raftwork.durations import duration_ms
from raftwork.errors import ConfigError, InvalidOption
from raftwork.secret import Masked

__all__ = [
    "ALLOW_INSECURE",
    "INSECURE_WORDS",
    "Network",
    "check_address",
    "check_addresses",
    "check_file",
    "check_insecure",
    "check_truth",
    "read_private",
]

INSECURE_WORDS: Final = "i-understand-that-anyone-on-the-network-can-run-jobs"
"""What the setting `insecure` must say."""

ALLOW_INSECURE: Final = "RAFTWORK_ALLOW_INSECURE"
"""The variable that must be 1 besides."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_CERTIFICATES = ("tls_ca", "tls_certificate", "tls_key")
_EVERYWHERE = ("0.0.0.0", "::")


class Gettable(Protocol):
    """Values by name."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Network:
    """How a process is on the network. The defaults: not at all."""

    listen: str | None = None
    """Where this node listens for the other members, `host:port`. None: the node is alone and has no port."""
    listen_clients: str | None = None
    """Where it listens for clients. None: the next port."""
    advertise: str | None = None
    """Where others reach what listens at `listen`. None: there."""
    advertise_clients: str | None = None
    """Where clients reach what listens at `listen_clients`. None: there."""
    members: tuple[str, ...] = ()
    """Where the first members listen for each other, this one included. A node with data looks for the others there."""
    join: tuple[str, ...] = ()
    """Where members of a cluster listen that a node without data is to join. With data: as `members`; not beside it."""
    node_name: str | None = None
    """What people call this node. None: the address where others reach it."""
    election_timeout: int | None = None
    """Milliseconds without a word from the leader after which a node stands for election. None: 1,000."""
    snapshot_rate: int | None = None
    """Bytes a second of a state that one node sends to another. None: the core's default."""
    health_listen: str | None = None
    """Where probes and metrics are answered over HTTP, `host:port`. None: nowhere."""
    metrics_open: bool | None = None
    """Whether metrics are answered there to other machines too, without encryption. None: only to this machine."""
    tls_ca: str | None = None
    """File with the certificates of the authority that all certificates of this cluster come from, PEM."""
    tls_certificate: str | None = None
    """File with the own certificate, PEM."""
    tls_key: str | None = None
    """File with its private key, PEM."""
    insecure: str | None = None
    """`INSECURE_WORDS`: connections to other machines without protection."""
    token: str | None = field(default=None, repr=False)
    """What a client shows the cluster to say who it is."""
    token_file: str | None = None
    """File that holds it, for its owner's eyes only."""
    first_token: str | None = None
    """SHA-256 of the token that may do everything in a cluster which this node begins. None: there is none."""
    client_rate: int | None = None
    """Requests a second of one client, by its name, at this node. None: the core's default."""
    max_clients: int | None = None
    """Connections of clients at this node. None: the core's default."""
    follower_log_bytes: int | None = None
    """Bytes of log that stay in memory for members that fell behind. None: the core's default."""
    cluster_id: str | None = None
    """The cluster that a client is of. None: the one that first answers it."""

    @classmethod
    def of(cls, settings: Gettable) -> Network:
        """The part of checked settings that is about the network."""
        found = {field.name: settings[field.name] for field in fields(cls)}
        return cls(**{name: value for name, value in found.items() if value is not None})

    def with_query(self, query: Mapping[str, str], url: str, allowed: Iterable[str] | None = None) -> Network:
        """The same with what the query of a storage URL says, which wins.

        Args:
            query: names and values.
            url: shown in errors.
            allowed: the names that make sense there. None: all.

        Raises:
            ConfigError: a name is unknown, or a value is wrong.
        """
        if "token" in query:
            raise ConfigError("A token does not belong into a URL, which is shown. Set RAFTWORK_TOKEN, or token_file.")
        known = CHECKS.keys() if allowed is None else set(allowed)
        strange = sorted(query.keys() - known)
        if strange:
            raise ConfigError(f"storage={url!r}: {', '.join(strange)} is not an option of this storage.")
        try:
            checked: dict[str, Any] = {name: CHECKS[name](value) for name, value in query.items()}
            return replace(self, **checked)
        except ConfigError as error:
            raise ConfigError(f"{error.message} It comes from: storage={url!r}.") from None

    def clients(self) -> str | None:
        """Where this node serves clients, as they reach it. None: it is no node of a cluster."""
        if self.listen is None:
            return None
        beside = next_port(self.advertise or self.listen) if self.listen_clients is None else self.listen_clients
        return self.advertise_clients or beside

    def clients_of_members(self) -> tuple[str, ...]:
        """Where the first members serve clients, if each of the others does so at the port after its own."""
        own = {self.advertise or self.listen: self.clients()}
        return tuple(own.get(member) or next_port(member) for member in self.members)

    def node_options(self) -> dict[str, Any]:
        """What the core is told to be a member. Nothing when `listen` is not set.

        Raises:
            ConfigError: settings that do not go together; the message names them and the way out.
        """
        protection = self._protection()
        addresses = ("listen", "listen_clients", "advertise", "advertise_clients")
        told: dict[str, Any] = {name: getattr(self, name) for name in addresses if getattr(self, name) is not None}
        told |= {name: list(getattr(self, name)) for name in ("members", "join") if getattr(self, name)}
        if self.election_timeout is not None:
            told["election_timeout_ms"] = self.election_timeout
        if self.snapshot_rate is not None:
            told["snapshot_rate"] = self.snapshot_rate
        alone: dict[str, Any] = {} if self.health_listen is None else {"health_listen": self.health_listen}
        if self.metrics_open:
            alone["metrics_open"] = True
        if self.listen is None:
            if told:
                raise ConfigError(
                    f"{', '.join(told)} needs listen: where this node listens for the other members. Set it too, "
                    "such as RAFTWORK_LISTEN=10.0.0.1:7000; or use raftwork://host:port to be a client of a cluster."
                )
            return alone
        if self.members and self.join:
            raise ConfigError(
                "members and join are both set. A node is one of the first (members), or it joins those that there are "
                "(join); take one away."
            )
        if self.node_name is not None:
            told["name"] = self.node_name
        bounds = ("client_rate", "max_clients", "follower_log_bytes")
        told |= {name: getattr(self, name) for name in bounds if getattr(self, name) is not None}
        if self.first_token is not None:
            told["first_token"] = bytes.fromhex(self.first_token)
        for name in ("listen", "listen_clients"):
            address, advertised = getattr(self, name), name.replace("listen", "advertise")
            if address is not None and _host(address) in _EVERYWHERE and getattr(self, advertised) is None:
                raise ConfigError(
                    f"{name}={address!r} is every address of this machine, which others cannot call. Set {advertised} "
                    f"to the one they reach it by, or {name} to one address."
                )
        return told | alone | protection

    def client_options(self) -> dict[str, Any]:
        """What the core is told to protect connections, and to say who this client is.

        Raises:
            ConfigError: as `node_options`; or the file of the token cannot be read, or others can read it.
        """
        token = self._token()
        told: dict[str, Any] = {} if self.cluster_id is None else {"cluster_id": self.cluster_id}
        if token is None:
            return self._protection() | told
        told["token"] = token
        if self.tls_ca is not None and self.tls_certificate is None and self.tls_key is None:
            return {"tls_ca": os.path.abspath(self.tls_ca)} | told
        return self._protection() | told

    def _token(self) -> str | None:
        if self.token is not None and self.token_file is not None:
            raise ConfigError("token and token_file are both set. Take one of them away.")
        token = self.token if self.token_file is None else _check_token(read_private(self.token_file, "token_file"))
        # Plain text for the core, which takes no other.
        return None if token is None else str(token)

    def _protection(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in _CERTIFICATES if getattr(self, name) is not None}
        if given and len(given) < len(_CERTIFICATES):
            missing = [name for name in _CERTIFICATES if name not in given]
            raise ConfigError(
                f"{' and '.join(given)} is set without {' and '.join(missing)}. TLS needs all three, or tls_ca "
                "alone for a client with a token."
            )
        insecure = insecure_allowed(self.insecure)
        if given and insecure:
            raise ConfigError("insecure and certificates (tls_ca, ...) are both set. Take one of them away.")
        told: dict[str, Any] = {name: os.path.abspath(path) for name, path in given.items()}
        return told | {"insecure": True} if insecure else told


def insecure_allowed(words: str | None, environ: Mapping[str, str] | None = None) -> bool:
    """Whether connections may go without protection: only if both the setting and the variable say so.

    Raises:
        ConfigError: one of them says so and the other does not.
    """
    variable = (os.environ if environ is None else environ).get(ALLOW_INSECURE, "")
    if words is None and variable in ("", "0"):
        return False
    if words is None:
        raise ConfigError(
            f"{ALLOW_INSECURE}={variable} is set, but the setting insecure is not. For connections without any "
            f'protection set it to "{INSECURE_WORDS}"; otherwise unset {ALLOW_INSECURE}.'
        )
    if variable != "1":
        raise ConfigError(
            f"The setting insecure is set, but {ALLOW_INSECURE} is {variable or 'not set'}. For connections without "
            f"any protection set {ALLOW_INSECURE}=1 in the environment too; otherwise remove insecure and give "
            "certificates: tls_ca, tls_certificate, tls_key."
        )
    return True


def check_truth(value: Any, name: str) -> bool:
    """Yes or no: a boolean, or `true` or `false` as text.

    Raises:
        ConfigError: it is anything else.
    """
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise ConfigError(f"{name}={value!r} is neither true nor false.")
    return bool(value == "true")


def check_address(value: Any, name: str) -> str:
    """A place on the network, `host:port` or `[IPv6]:port`, as it was written.

    Raises:
        ConfigError: it is none; the message names the setting and shows how it is written.
    """
    wrong = ConfigError(f"{name}={value!r} is not an address. Write host:port, such as 10.0.0.1:7000 or [::1]:7000.")
    if not isinstance(value, str):
        raise wrong
    host, colon, port = value.rpartition(":")
    if not colon or not host:
        raise ConfigError(f"{name}={value!r} has no port. Write host:port, such as 10.0.0.1:7000.")
    if not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        raise ConfigError(f"{name}={value!r} has no port from 0 to 65,535 behind the last colon.")
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise wrong from None
    elif ":" in host:
        raise ConfigError(f"{name}={value!r}: write an IPv6 address in brackets, such as [::1]:7000.")
    elif not _NAME.fullmatch(host):
        raise wrong
    return value


def next_port(address: str) -> str:
    """The same host with the next port."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 1}"


def check_addresses(value: Any, name: str) -> tuple[str, ...]:
    """Addresses as a list, or as text with commas between them. Each once, one at least.

    Raises:
        ConfigError: there is none, one is wrong, or one is there twice.
    """
    if isinstance(value, str):
        parts: list[Any] = [part.strip() for part in value.split(",")]
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        parts = list(value)
    else:
        raise ConfigError(f"{name}={value!r} is not a list. Write host:port,host:port or a list of such texts.")
    if not any(parts):
        raise ConfigError(f"{name}={value!r} names no address. Write host:port,host:port.")
    found = tuple(check_address(part, name) for part in parts)
    twice = sorted({part for part in found if found.count(part) > 1})
    if twice:
        raise ConfigError(f"{name} names {', '.join(twice)} more than once.")
    return found


def check_insecure(value: Any) -> str:
    """The sentence that says that connections need no protection, and nothing else.

    Raises:
        ConfigError: it is anything else.
    """
    if value != INSECURE_WORDS:
        raise ConfigError(
            f'insecure={value!r} must be exactly "{INSECURE_WORDS}", and {ALLOW_INSECURE}=1 must be set besides. '
            "Better: give certificates with tls_ca, tls_certificate and tls_key."
        )
    return INSECURE_WORDS


def _check_name(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or len(value.encode()) > 255:
        raise ConfigError(f"{name}={value!r} is not a name. Write up to 255 bytes of printable text.")
    return value


def check_file(name: str, value: Any) -> str:
    """The path of a file, as text.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigError(f"{name}={value!r} is not the path of a file.")
    return value


def _check_token(value: Any) -> str:
    # What was written is not repeated: messages are logged.
    if not isinstance(value, str) or not value.strip().startswith("rwt1."):
        raise ConfigError("token is not a token: it begins with rwt1. `raftwork cluster token create` makes one.")
    return Masked(value.strip())


def _check_hash(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"(sha256:)?[0-9a-f]{64}", value):
        raise ConfigError(f"first_token={value!r} is not a SHA-256. `raftwork cluster init` writes it.")
    return value.removeprefix("sha256:")


def _check_cluster(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{32}", value.replace("-", "")):
        raise ConfigError(f"cluster_id={value!r} is not the id of a cluster. `raftwork cluster status` shows it.")
    return value


def _check_whole(value: Any, name: str, least: int, most: int, of: str = "") -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.strip().isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise ConfigError(f"{name}={value!r} is not a whole number{of} from {least:,} to {most:,}.")
    return number


def read_private(path: str, setting: str) -> str:
    """The text of a file that only its owner can read, 64 KiB of it at most.

    Raises:
        ConfigError: it cannot be read, or others can read it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise ConfigError(
                    f"{setting}={path!r} can be used by others (mode {stat.S_IMODE(mode):04o}). Run `chmod 600 {path}`."
                )
            return file.read(64 << 10)
    except UnicodeDecodeError:
        # Its own words would repeat bytes of what is private.
        raise ConfigError(f"{setting}={path!r} cannot be read: it is not text.") from None
    except OSError as error:
        raise ConfigError(f"{setting}={path!r} cannot be read: {error}.") from None


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _check_election(value: Any) -> int:
    try:
        return duration_ms(value, "election_timeout", least_ms=200, most_ms=60_000)
    except InvalidOption as error:
        raise ConfigError(error.message) from None


CHECKS: Final = {
    "listen": lambda value: check_address(value, "listen"),
    "listen_clients": lambda value: check_address(value, "listen_clients"),
    "advertise": lambda value: check_address(value, "advertise"),
    "advertise_clients": lambda value: check_address(value, "advertise_clients"),
    "members": lambda value: check_addresses(value, "members"),
    "join": lambda value: check_addresses(value, "join"),
    "node_name": lambda value: _check_name(value, "node_name"),
    "election_timeout": _check_election,
    "snapshot_rate": lambda value: _check_whole(value, "snapshot_rate", 1 << 20, 1 << 34, " of bytes a second"),
    "health_listen": lambda value: check_address(value, "health_listen"),
    "metrics_open": lambda value: check_truth(value, "metrics_open"),
    "tls_ca": lambda value: check_file("tls_ca", value),
    "tls_certificate": lambda value: check_file("tls_certificate", value),
    "tls_key": lambda value: check_file("tls_key", value),
    "insecure": check_insecure,
    "token": _check_token,
    "token_file": lambda value: check_file("token_file", value),
    "first_token": _check_hash,
    "client_rate": lambda value: _check_whole(value, "client_rate", 1, 1_000_000_000),
    "max_clients": lambda value: _check_whole(value, "max_clients", 1, 1 << 16),
    "follower_log_bytes": lambda value: _check_whole(value, "follower_log_bytes", 1 << 20, 1 << 34, " of bytes"),
    "cluster_id": _check_cluster,
}
"""Turns what the user wrote for a field into its plain form, or raises ConfigError."""
