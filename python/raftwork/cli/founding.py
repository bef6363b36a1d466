"""`raftwork cluster init | invite | join | renew`: a cluster with certificates, without editing a file.

`init` and `join` make a directory that is its owner's alone: `raftwork.toml` with the settings, `pki/` with keys and
certificates, and `data/` once the node runs. `raftwork node` there starts it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from raftwork import _core, clock
from raftwork.cli.orders import INVITE, RENEW, order
from raftwork.cli.output import moment, say, show
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.errors import ConfigError
from raftwork.network import check_address

__all__ = ["init", "invite", "join", "renew"]

DIRECTORY = click.argument("directory", type=click.Path(path_type=Path))
LISTEN = click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:7000",
    show_default=True,
    help="Where this node listens for the other members; they must reach it there.",
)
LISTEN_CLIENTS = click.option("--listen-clients", metavar="HOST:PORT", help="Default: the next port.")
NODE_NAME = click.option("--node-name", metavar="NAME", help="What people call this node.")


@click.command()
@DIRECTORY
@LISTEN
@LISTEN_CLIENTS
@NODE_NAME
@common
def init(directory: Path, listen: str, listen_clients: str | None, node_name: str | None, as_json: bool) -> None:
    """Make a new cluster's authority, the certificate of its first node, and the first token, shown once.

    DIRECTORY is made, for its owner's eyes only. Then: cd DIRECTORY; raftwork node. The authority's key, pki/ca.key,
    signs certificates for invitations and renewals; take it away while none are wanted. Example:

        raftwork cluster init /etc/shop --listen 10.0.0.1:7000
    """
    addresses = _addresses(listen, listen_clients)
    _make(directory)
    made = _call(_core.found_cluster, {"dir": str(directory / "pki"), "names": _names(listen)})
    settings = {
        "storage": "raft:///data",
        **addresses,
        **({"node_name": node_name} if node_name else {}),
        **_files("node"),
        "first_token": f"sha256:{made['digest'].hex()}",
    }
    _write_settings(directory, settings)
    answer = {"cluster": made["cluster"], "directory": str(directory), "token": made["token"]}
    show(answer, as_json, lambda: _tell_init(answer))


def _tell_init(answer: dict[str, Any]) -> None:
    where = answer["directory"]
    say(f"Cluster {answer['cluster']} is in {where}. Start its first node:")
    say(f"  cd {where} && raftwork node")
    say("Another machine joins with what this prints, there:")
    say(f"  cd {where} && raftwork cluster invite")
    say("The first token may do everything. It is shown this once, and stored nowhere:")
    say(f"  {answer['token']}")


@click.command()
@click.option("--client", metavar="NAME", help="For a client of this name instead of a node.")
@target_options
@common
def invite(client: str | None, target: Target, as_json: bool) -> None:
    """Print a line with which one node can join, once and within 15 minutes.

    Asked of the node beside which the authority's key lies: run it in the directory that `raftwork cluster init` made.
    """
    with connected(target) as app:
        text = order(app, INVITE, "node" if client is None else f"client/{client}")
        where = "DIRECTORY" if client else "DIRECTORY --listen HOST:PORT"
        show({"invitation": text}, as_json, lambda: _tell_invite(text, where))


def _tell_invite(text: str, where: str) -> None:
    click.echo(f"Good once, for 15 minutes. On the other machine: raftwork cluster join INVITATION {where}", err=True)
    say(text)


@click.command()
@click.argument("invitation")
@DIRECTORY
@LISTEN
@LISTEN_CLIENTS
@NODE_NAME
@common
def join(
    invitation: str,
    directory: Path,
    listen: str,
    listen_clients: str | None,
    node_name: str | None,
    as_json: bool,
) -> None:
    """Get a certificate for this machine with an INVITATION (- reads it from standard input).

    The key is made here and stays here. The cluster shows that it is the right one before the invitation is shown to
    it. Then: cd DIRECTORY; raftwork node. Example:

        raftwork cluster join rwi1.... /etc/shop --listen 10.0.0.2:7000
    """
    addresses = _addresses(listen, listen_clients)
    text = sys.stdin.readline() if invitation == "-" else invitation
    _make(directory)
    given = {"invitation": text, "dir": str(directory / "pki"), "names": _names(listen)}
    try:
        joined = _call(_core.join_cluster, given)
    except BaseException:
        _remove_if_empty(directory)
        raise
    if joined["role"] == "node":
        settings = {
            "storage": "raft:///data",
            **addresses,
            **({"node_name": node_name} if node_name else {}),
            "join": joined["members"],
            **_files("node"),
        }
    else:
        settings = {"storage": f"raftwork://{','.join(joined['clients'])}", **_files("client")}
    _write_settings(directory, settings)
    answer = {"role": joined["role"], "cluster": joined["cluster"], "directory": str(directory)}
    then = "raftwork node" if joined["role"] == "node" else "raftwork status"
    show(answer, as_json, lambda: say(f"{directory} is a {joined['role']} now: cd {directory} && {then}"))


@click.command()
@target_options
@common
def renew(target: Target, as_json: bool) -> None:
    """Give the node that answers a new key and certificate, signed where the authority's key is. Nothing restarts."""
    with connected(target) as app:
        until = clock.from_ms(order(app, RENEW))
        show({"expires_at": until}, as_json, lambda: say(f"The new certificate is good until {moment(until)}."))


def _call(function: Any, given: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = msgspec.msgpack.decode(function(msgspec.msgpack.encode(given)))
    return answer


def _make(directory: Path) -> None:
    if (directory / "raftwork.toml").exists():
        raise ConfigError(f"{directory} has a raftwork.toml already. Name a directory that is new.")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _remove_if_empty(directory: Path) -> None:
    for path in (directory / "pki", directory):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _addresses(listen: str, listen_clients: str | None) -> dict[str, str]:
    found = {"listen": check_address(listen, "--listen")}
    if listen_clients is not None:
        found["listen_clients"] = check_address(listen_clients, "--listen-clients")
    return found


def _names(listen: str) -> list[str]:
    """For people who read the certificate: nobody relies on them."""
    host = listen.rpartition(":")[0].strip("[]")
    return sorted({host, socket.gethostname()} - {""})


def _files(name: str) -> dict[str, str]:
    return {"tls_ca": "pki/ca.pem", "tls_certificate": f"pki/{name}.pem", "tls_key": f"pki/{name}.key"}


def _write_settings(directory: Path, settings: dict[str, Any]) -> None:
    """A text of TOML is one of JSON, for what stands in here."""
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    path = directory / "raftwork.toml"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
