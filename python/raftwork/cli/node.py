"""`raftwork node`: one node of a cluster, without workers, until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from raftwork.app import Raftwork
from raftwork.cli.output import show
from raftwork.cli.target import common
from raftwork.errors import CrashLoop, DirectoryBusy, ForeignDirectory, StateDiffers, StorageError
from raftwork.network import Network
from raftwork.storage.connect import network_of
from raftwork.storage.raft import RaftStorage
from raftwork.worker import end_with_parent
from raftwork.worker.logs import set_up_logging
from raftwork.worker.signals import StopSignals

__all__ = ["node"]

logger = logging.getLogger("raftwork.node")

PATIENCE_S = 5.0
"""Without a majority for so long, it says what it waits for."""

ASK_EVERY_S = 0.1
"""How often a new member asks whether it may vote."""


LOOK_EVERY_S = 1.0
"""How often it looks whether it still is a member."""

FINAL = (ForeignDirectory, StateDiffers, CrashLoop)
"""What opening the directory again does not mend."""

EXIT_STORAGE = 3


@click.command()
@click.option("--data", metavar="DIR", type=click.Path(path_type=Path), help="The data directory; made if missing.")
@click.option("--listen", metavar="HOST:PORT", help="Where this node listens for the other members.")
@click.option("--members", metavar="A,B,C", help="Where the first members listen, the same list for all of them.")
@click.option("--join", metavar="A,B", help="Join a cluster that there is already: where some of its members listen.")
@click.option("--node-name", metavar="NAME", help="What people call this node. Default: where it listens.")
@click.option("--listen-clients", metavar="HOST:PORT", help="Where it listens for clients. Default: the next port.")
@click.option("--advertise", metavar="HOST:PORT", help="Where members reach it, if not at --listen.")
@click.option("--advertise-clients", metavar="HOST:PORT", help="Where clients reach it, if not at --listen-clients.")
@click.option("--election-timeout", metavar="DURATION", help="Silence of the leader until an election. Default: 1s.")
@click.option("--health-listen", metavar="HOST:PORT", help="Where /livez, /readyz and /metrics are answered over HTTP.")
@click.option("--tls-ca", metavar="FILE", help="The authority of all certificates of the cluster.")
@click.option("--tls-certificate", metavar="FILE", help="The certificate of this node.")
@click.option("--tls-key", metavar="FILE", help="Its private key.")
@click.option("--insecure", metavar="SENTENCE", help="Allow plain connections to other machines.")
@click.option("--log-level", default="INFO", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]))
@common
def node(data: Path | None, log_level: str, as_json: bool, **given: str | None) -> int:
    """Run one node of a cluster until SIGTERM or Ctrl-C.

    What is not given comes from the settings. It says in one line when it serves: a majority of the members is there,
    and its state has all they have answered. At a stop it lets another member lead first. Exits 3 and says what to do
    when it cannot go on: it was removed, its state differs from that of the others, or it failed three times in the
    same way. Example:

        raftwork node --data /var/lib/shop --listen 10.0.0.1:7000 --members 10.0.0.1:7000,10.0.0.2:7000,10.0.0.3:7000
    """
    set_up_logging(log_level)
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if data is not None:
        settings["storage"] = f"raft:///{quote(str(data.absolute()))}"
    app = Raftwork("node", **settings)
    storage = app.storage
    if not isinstance(storage, RaftStorage):
        raise click.UsageError(f"storage={app.setting('storage')!r} is no directory. Name one with --data.")
    network = network_of(app.setting("storage"), Network.of(app.config))
    if network.listen is None:
        raise click.UsageError("Where does this node listen for the other members? Name it with --listen HOST:PORT.")
    stop, opened = threading.Event(), threading.Event()

    def end() -> None:
        stop.set()
        if not opened.is_set():
            os._exit(0)

    end_with_parent()
    with StopSignals(end, end):
        try:
            storage.open()
            opened.set()
            _check_owner(storage)
            announce = threading.Thread(target=_announce, args=(storage, network, stop, as_json), daemon=True)
            announce.start()
            if not _wait(storage, stop):
                return EXIT_STORAGE
            logger.info("Stops; if it leads, another member does so first.")
        finally:
            app.close()
    return 0


def _wait(storage: RaftStorage, stop: threading.Event) -> bool:
    """Wait until it is told to stop. False: the node ended, and to open its directory again does not mend that."""
    while not stop.wait(LOOK_EVERY_S):
        try:
            storage.health()
        except FINAL as error:
            logger.error("%s", error)
            return False
        except StorageError:
            pass  # The disk failed; the storage opens the directory again by itself.
    return True


def _check_owner(storage: RaftStorage) -> None:
    if storage.health()["role"] != "owner":
        raise DirectoryBusy(f"Another process runs the node of {storage.path}. End it, or name another directory.")


def _announce(storage: RaftStorage, network: Network, stop: threading.Event, as_json: bool) -> None:
    """Say when the node serves, and meanwhile what it waits for."""
    with contextlib.suppress(StorageError):  # Closed before that.
        try:
            storage.fresh(PATIENCE_S)
        except StorageError:
            logger.info("Listens at %s and waits for a majority of the members.", network.listen)
            storage.fresh()
        while not (health := storage.health())["voter"] and not stop.wait(ASK_EVERY_S):
            pass  # It has the state, and the leader is about to let it vote.
        serving = {
            "event": "node.serving",
            "role": health["raft_role"],
            "voters": health["voters"],
            "node": health["node"],
            "cluster": health["cluster"],
            "listen": network.listen,
            "clients": network.clients(),
            "directory": str(storage.path),
            "pid": os.getpid(),
        }
        show(serving, as_json, lambda: logger.info(_line(serving)))


def _line(serving: dict[str, Any]) -> str:
    return (
        "Serves as {role}: node {node} of cluster {cluster}, one of {voters} that vote; members at {listen}, "
        "clients at {clients}, data in {directory}, pid {pid}."
    ).format(**serving)
