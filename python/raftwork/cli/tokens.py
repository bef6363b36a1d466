"""`raftwork cluster token`, `audit` and `finalize`: who may do what, what was done, which features all members have."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from raftwork import clock, durations
from raftwork.cli.orders import FINALIZE, LIST_ACTS, LIST_TOKENS, PUT_TOKEN, REVOKE_TOKEN, order
from raftwork.cli.output import age, moment, say, show, table
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.errors import ConfigError

__all__ = ["audit", "finalize", "token"]

TOKEN_COLUMNS = ("Id", "Name", "May", "Expires", "Made")
ACT_COLUMNS = ("Index#", "At", "Who", "Did", "About")


@click.group()
def token() -> None:
    """Tokens of clients: make, list, take back."""


@token.command()
@click.argument("name")
@click.option("--can", "capabilities", multiple=True, required=True, metavar="CAPABILITY", help="May be given again.")
@click.option(
    "--expires", metavar="DURATION", help="It is worth nothing after so long, such as 90d. Default: for good."
)
@click.option(
    "--overlap", metavar="DURATION", help="Older tokens of this name end after so long: it takes their place."
)
@target_options
@common
def create(
    name: str,
    capabilities: tuple[str, ...],
    expires: str | None,
    overlap: str | None,
    target: Target,
    as_json: bool,
) -> None:
    """Make a token and print it, this once: the cluster keeps only a hash of it.

    CAPABILITY is enqueue:QUEUE, work:QUEUE, lock:NAME, read, operate or admin; * in QUEUE and NAME stands for any
    letters. A client gives the token as RAFTWORK_TOKEN or token_file, and the cluster's pki/ca.pem as tls_ca. Example:

        raftwork cluster token create mailer --can enqueue:mail --can read --expires 90d
    """
    lives = None if expires is None else durations.duration_ms(expires, "--expires", least_ms=1)
    overlaps = None if overlap is None else durations.duration_ms(overlap, "--overlap", least_ms=0)
    with connected(target) as app:
        text, known_as = order(app, PUT_TOKEN, name, list(capabilities), lives, overlaps)
        show({"token": text, "id": known_as, "name": name}, as_json, lambda: _tell(text, name, known_as))


def _tell(text: str, name: str, known_as: str) -> None:
    click.echo(f"Token {name} ({known_as}). It is shown this once:", err=True)
    say(text)


@token.command("list")
@target_options
@common
def list_tokens(target: Target, as_json: bool) -> None:
    """Every token: what it may do and until when. Never the token itself."""
    with connected(target) as app:
        rows = [_row(*row) for row in order(app, LIST_TOKENS)]
        cells = [
            (row["id"], row["name"], " ".join(row["capabilities"]), _until(row["expires_at"]), moment(row["made_at"]))
            for row in rows
        ]
        show(rows, as_json, lambda: table(TOKEN_COLUMNS, cells, empty="There are no tokens."))


def _row(known_as: str, name: str, capabilities: list[str], expires: int | None, made: int) -> dict[str, Any]:
    return {
        "id": known_as,
        "name": name,
        "capabilities": capabilities,
        "expires_at": None if expires is None else clock.from_ms(expires),
        "made_at": clock.from_ms(made),
    }


def _until(expires: datetime | None) -> str:
    return "never" if expires is None else age(expires)


@token.command()
@click.argument("which", metavar="NAME-OR-ID")
@target_options
@common
def revoke(which: str, target: Target, as_json: bool) -> None:
    """Take a token back, by its id, or all of a name. In force on all nodes within a second; its connections end."""
    with connected(target) as app:
        count = order(app, REVOKE_TOKEN, which)
        if not count:
            raise ConfigError(f"There is no token {which!r}. `raftwork cluster token list` shows them.")
        show({"revoked": count}, as_json, lambda: say(f"Revoked: {count}."))


@click.command()
@target_options
@common
def audit(target: Target, as_json: bool) -> None:
    """What was done about the cluster itself, oldest first: tokens, invitations, members, and who asked for it."""
    with connected(target) as app:
        rows = [
            {"index": index, "at": clock.from_ms(at), "actor": actor, "what": what, "about": about}
            for index, at, actor, what, about in order(app, LIST_ACTS)
        ]
        cells = [(row["index"], moment(row["at"]), row["actor"], row["what"], row["about"]) for row in rows]
        show(rows, as_json, lambda: table(ACT_COLUMNS, cells, empty="Nothing yet."))


@click.command()
@target_options
@common
def finalize(target: Target, as_json: bool) -> None:
    """After an upgrade of all members: let the cluster use what the new version brought. There is no way back then.

    Refused while a member runs an older version or is not connected, and then names it: it would stop for good.
    """
    with connected(target) as app:
        level = order(app, FINALIZE)
        show({"level": level}, as_json, lambda: say(f"The cluster is at feature level {level}."))
