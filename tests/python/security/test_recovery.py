"""A cluster with certificates that goes on from a backup, or with one member alone, under certificates of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raftwork import Raftwork
from raftwork.testing.cluster import free_ports
from support.founded import Founded, command

NEW = 3
"""Number of the node that goes on."""


def send() -> None: ...


def use(founded: Founded, token: str, ca: Path, jobs: int) -> int:
    """Enqueue over the network with this token. Returns how many jobs wait then."""
    app = Raftwork("shop", founded.url, token=token, tls_ca=str(ca))
    task = app.task(name="shop.send", queue="mail")(send)
    with app:
        for _ in range(jobs):
            task.enqueue()
        return app.storage.counts()["enqueued"]


def restore(old: Path, new: Path, cluster: str) -> None:
    command("cluster", "restore", str(old / "shop.rwb"), "--data", "data", "--cluster", cluster, at=new)


def recover(old: Path, new: Path, cluster: str) -> None:
    (old / "data").rename(new / "data")
    command("cluster", "recover", "--data", "data", "--cluster", cluster, "--accept-loss", at=new)


@pytest.mark.parametrize("go_on", [restore, recover])
def test_it_goes_on_with_new_certificates_and_the_old_tokens(
    tmp_path: Path, go_on: Callable[[Path, Path, str], None]
) -> None:
    with Founded(tmp_path) as founded:
        mailer = founded.make_token("mailer", "enqueue:*", "read")
        assert use(founded, mailer, Path(founded.ca), 5) == 5
        old, new = founded.at(0), founded.at(NEW)
        command("cluster", "backup", "shop.rwb", at=old)
        founded.close()
        founded.listen += [f"127.0.0.1:{port}" for port in free_ports(2)]
        made = command("cluster", "init", str(new), "--listen", founded.listen[NEW], at=tmp_path)
        go_on(old, new, made["cluster"])
        assert founded.begin(NEW)["cluster"] == made["cluster"] != founded.cluster
        # What is enqueued now needs the certificate of the new authority, and no new token.
        assert use(founded, mailer, new / "pki" / "ca.pem", 1) == 6
        invitation = command("cluster", "invite", at=new)["invitation"]
        command("cluster", "join", invitation, str(founded.at(NEW + 1)), "--listen", founded.listen[-1], at=tmp_path)
        founded.begin(NEW + 1)
        assert [member["role"] for member in command("cluster", "members", at=new)] == ["voter", "voter"]
