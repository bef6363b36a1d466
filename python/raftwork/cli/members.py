"""Asks the members of a cluster how they are, each at its own address, and puts the answers together.

Each is asked directly, so a member that has no leader, or leads only in its own opinion, still says how it is. Whoever
answers names the others, so one address is enough to find them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec

from raftwork import _core
from raftwork.config import Config
from raftwork.errors import ConfigError, RaftworkError
from raftwork.network import Network
from raftwork.storage.connect import network_of, nodes_of

__all__ = ["Answer", "ask_all", "report_of", "whom_to_ask"]


LAG_ENTRIES = 10_000
"""A member that lacks more is no help when another one goes: writes would wait for it."""


class Answer(NamedTuple):
    """What came of asking one address."""

    address: str
    health: dict[str, Any] | None
    """What the member says of itself. None: it did not answer."""
    members: list[tuple[str, str]]
    """Whom it knows: node, and address for clients."""
    error: str
    """Why it did not answer."""
    node: str | None
    """Who it is, or who it should be."""


def whom_to_ask(config: Config) -> tuple[tuple[str, ...], Network]:
    """Where members serve clients, as far as the settings say, and how to reach them.

    Raises:
        ConfigError: the settings name no members.
    """
    url = config["storage"]
    network = network_of(url, Network.of(config)) if url.startswith("raft") else Network()
    addresses = nodes_of(url) if url.startswith("raftwork:") else network.clients_of_members()
    if not addresses:
        raise ConfigError(
            f"storage={url!r} is no cluster as far as the settings say, so there are no members to ask. Give "
            "--storage raftwork://host:port,host:port, or set members; one node alone is asked by `raftwork status`."
        )
    return addresses, network


def ask_all(addresses: Sequence[str], network: Network, timeout_ms: int) -> list[Answer]:
    """Ask the members at these addresses, and whoever they know besides, all at once; in the order of the addresses."""
    options = network.client_options() | {"timeout_ms": timeout_ms}
    answers = _ask(addresses, options)
    found = {answer.node for answer in answers if answer.node}
    listed = {node: address for answer in answers for node, address in answer.members if address}
    others = {node: address for node, address in listed.items() if node not in found}
    by_address = {address: node for node, address in others.items()}
    # One that did not answer at an address that is in the list is the one that the list names.
    answers = [
        answer if answer.health else answer._replace(node=by_address.pop(answer.address, None)) for answer in answers
    ]
    return _once_each([*answers, *_ask(list(by_address), options, by_address)])


def _ask(addresses: Sequence[str], options: dict[str, Any], nodes: dict[str, str] | None = None) -> list[Answer]:
    if not addresses:
        return []
    with ThreadPoolExecutor(len(addresses), thread_name_prefix="ask") as pool:
        answers = list(pool.map(lambda address: _ask_one(address, options), addresses))
    return [answer._replace(node=answer.node or (nodes or {}).get(answer.address)) for answer in answers]


def _ask_one(address: str, options: dict[str, Any]) -> Answer:
    try:
        said = _core.look_at_member(msgspec.msgpack.encode(options | {"node": address}))
    except RaftworkError as error:
        return Answer(address, None, [], error.message, None)
    health, members = msgspec.msgpack.decode(said)
    return Answer(address, health, [(str(node), client) for node, _, _, client in members], "", health["node"])


def _once_each(answers: Iterable[Answer]) -> list[Answer]:
    """Without a second address of a member that is there already."""
    seen: set[str] = set()
    kept = []
    for answer in answers:
        if answer.node is None or answer.node not in seen:
            kept.append(answer)
        seen |= {answer.node} if answer.node else set()
    return kept


def report_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """What the answers mean together: who leads, how far each is, and what somebody should look at."""
    well = [answer.health for answer in answers if answer.health]
    leaders = [health for health in well if health["role"] == "leader" and not health["cut_off"]]
    leader = max(leaders, key=lambda health: int(health["term"]), default=None)
    committed = max((int(health["committed"]) for health in well), default=0)
    return {
        "cluster": leader["cluster"] if leader else (well[0]["cluster"] if well else None),
        "leader": leader["node"] if leader else None,
        "term": leader["term"] if leader else max((health["term"] for health in well), default=None),
        "voters": leader["voters"] if leader else None,
        "answering": leader["quorum"]["answering"] if leader else None,
        "can_lose": _can_lose(leader),
        "verdict": _verdict(leader),
        "committed": committed,
        "feature_level": leader["feature_level"] if leader else None,
        "knows_level": _known_by_all(leader),
        "members": [_member(answer, committed, _seen_by(leader, answer.node)) for answer in answers],
        "problems": _problems(answers, leader),
    }


def _known_by_all(leader: dict[str, Any] | None) -> int | None:
    """The highest feature level that every member knows. None: of some member it is not known."""
    if leader is None:
        return None
    levels = [leader["knows_level"], *(peer["knows_level"] for peer in leader["peers"])]
    return None if None in levels else min(levels)


def _seen_by(leader: dict[str, Any] | None, node: str | None) -> dict[str, Any]:
    """A member as the leader sees it; nothing about the leader itself."""
    return next((peer for peer in (leader or {}).get("peers", ()) if peer["node"] == node), {})


def _can_lose(leader: dict[str, Any] | None) -> int:
    """How many members more may go before nothing can be written: those that are far behind do not count as there."""
    if leader is None:
        return 0
    behind = len([peer for peer in leader["peers"] if peer["answers"] and peer["lag_entries"] > LAG_ENTRIES])
    return max(0, int(leader["quorum"]["can_lose"] or 0) - behind)


def _verdict(leader: dict[str, Any] | None) -> str:
    """The one line for somebody who was just woken up."""
    if leader is None:
        return "NOTHING CAN BE WRITTEN: no member leads. Bring members back until a majority is there."
    quorum, may_go = leader["quorum"], _can_lose(leader)
    there = f"{quorum['answering']} of {quorum['voters']} voters answer, {quorum['needed']} are needed"
    if may_go > 0:
        return f"SAFE to take {may_go} more away: {there}."
    if quorum["voters"] == 1:
        return "ONE VOTER ONLY: when it goes, nothing can be written."
    behind = any(peer["answers"] and peer["lag_entries"] > LAG_ENTRIES for peer in leader["peers"])
    return f"TAKE NONE AWAY: {there}{', and one is far behind' if behind else ''}."


def _member(answer: Answer, committed: int, seen: dict[str, Any]) -> dict[str, Any]:
    health = answer.health
    if health is None:
        known = {"address": answer.address, "node": answer.node, "answers": False, "error": answer.error}
        return known | {key: seen.get(key) for key in ("silent_ms", "matched", "version", "knows_level")}
    return {
        "address": answer.address,
        "node": health["node"],
        "answers": True,
        "role": health["role"] if health["voter"] else "learner",
        "version": health["version"],
        "knows_level": health["knows_level"],
        "leader": health["leader"],
        "term": health["term"],
        "applied": health["applied"],
        "committed": health["committed"],
        "lag": max(0, committed - health["applied"]),
        "matched": seen.get("matched"),
        "silent_ms": seen.get("silent_ms"),
        "staleness_ms": health["staleness_ms"],
        "ready": health["ready"],
        "snapshot_index": health["snapshot_index"],
        "snapshot_bytes": health["snapshot_bytes"],
        "log_bytes": health["log_bytes"],
        "fsync_p99_us": health["fsync_p99_us"],
        "peers_connected": health["peers_connected"],
        "cut_off": health["cut_off"],
        "protection": health["protection"],
        "certificate_expires_ms": health["certificate_expires_ms"],
        "alarms": health["alarms"],
    }


def _problems(answers: Sequence[Answer], leader: dict[str, Any] | None) -> list[str]:
    problems = [
        answer.error if answer.address in answer.error else f"{answer.address} does not answer: {answer.error}"
        for answer in answers
        if answer.health is None
    ]
    clusters = {answer.health["cluster"]: answer.address for answer in answers if answer.health}
    if leader is None:
        problems.append("no member leads: nothing can be written until a majority of the members is back")
    if len(clusters) > 1:
        named = ", ".join(f"{address} to {cluster}" for cluster, address in clusters.items())
        problems.append(f"these are members of different clusters: {named}")
    for answer in answers:
        if answer.health is not None:
            cut_off = ["it knows no leader: it is cut off from the majority"] if answer.health["cut_off"] else []
            problems += [f"{answer.address}: {words}" for words in (*cut_off, *answer.health["alarms"])]
    return problems
