"""One moment of a storage: who its members are, what waits where, who works, what failed. Plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from raftwork import clock, filters
from raftwork.app import Raftwork
from raftwork.cli.members import ask_all, report_of, whom_to_ask
from raftwork.errors import ConfigError
from raftwork.job_info import JobInfo
from raftwork.known import unknown_jobs
from raftwork.reading import Reading
from raftwork.storage.base import QueueInfo, SessionInfo

__all__ = ["FAILURES_MAX", "ORDERS", "Scene", "look", "sort_queues"]

READING: Final = Reading("local", None)
"""What the node at hand has, however old: the age is shown, and a cluster without a leader is worth looking at."""
MEMBER_MS: Final = 2_000
"""How long a member may take to say how it is."""
FAILURES_MAX: Final = 20

ORDERS: Final = ("name", "ready", "running", "rate")
"""By what queues can be sorted."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What was seen at one moment."""

    at_ms: int
    storage: str
    staleness_ms: int | None
    """How old the figures can be. None: nobody knows."""
    verdict: str
    """What the members mean together; empty where there is one node alone."""
    members: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)
    queues: list[dict[str, Any]] = field(default_factory=list)
    workers: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[dict[str, Any]] = field(default_factory=list)
    """Functions whose jobs wait while no connected worker knows them."""
    failures: list[dict[str, Any]] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "at": clock.from_ms(self.at_ms),
            "storage": self.storage,
            "staleness_ms": self.staleness_ms,
            "verdict": self.verdict,
            "members": self.members,
            "jobs": self.jobs,
            "queues": self.queues,
            "workers": self.workers,
            "unknown_jobs": self.unknown,
            "failures": self.failures,
        }


def look(app: Raftwork, before: Scene | None) -> Scene:
    """Ask for everything. Rates are those since `before`; without one they are not known.

    Raises:
        RaftworkError: the storage does not answer. Members are asked first, each by itself.
    """
    verdict, members = _members(app)
    storage, now_ms = app.storage, clock.now_ms()
    counts = storage.counts(READING)
    age = counts.as_of.staleness
    return Scene(
        at_ms=now_ms,
        storage=str(app.setting("storage")),
        staleness_ms=None if age is None else age // timedelta(milliseconds=1),
        verdict=verdict,
        members=members,
        jobs=dict(counts),
        queues=[_queue(queue, now_ms, before) for queue in storage.queues(READING)],
        workers=[_worker(session) for session in storage.sessions(READING) if session.kind == "worker"],
        unknown=[jobs._asdict() for jobs in unknown_jobs(storage, READING)],
        failures=[_failure(job) for job in app.job_page(FAILED, None, FAILURES_MAX, READING).jobs],
    )


FAILED: Final = filters.parse("state:failed")


def _members(app: Raftwork) -> tuple[str, list[dict[str, Any]]]:
    """The members of a cluster, each as it says itself; or the one node that there is."""
    try:
        addresses, network = whom_to_ask(app.config)
    except ConfigError:
        health = app.health()
        name = health.get("directory") or health.get("node") or "memory"
        role = health.get("raft_role", "-")
        return "", [_member(str(name), role, 0, health.get("status") == "ok", list(health.get("alarms") or ()))]
    report = report_of(ask_all(addresses, network, MEMBER_MS))
    return report["verdict"], [
        _member(row["address"], row["role"], row["lag"], row["ready"], row["alarms"])
        if row["answers"]
        else _member(row["address"], "no answer", None, False, [row["error"]])
        for row in report["members"]
    ]


def _member(name: str, role: str, lag: int | None, ready: bool, alarms: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "role": role, "lag": lag, "ready": ready, "alarms": list(alarms)}


def _queue(queue: QueueInfo, now_ms: int, before: Scene | None) -> dict[str, Any]:
    earlier = next((row for row in before.queues if row["name"] == queue.name), None) if before else None
    seconds = (now_ms - before.at_ms) / 1_000 if before else 0.0

    def rate(name: str) -> float | None:
        if earlier is None or seconds <= 0:
            return None
        # A node that was restored may have counted less than the one before.
        grown: int = getattr(queue, name) - earlier[name]
        return round(max(0, grown) / seconds, 1)

    oldest = queue.oldest_enqueued_ms
    return {
        "name": queue.name,
        "ready": queue.enqueued,
        "running": queue.processing,
        "scheduled": queue.scheduled,
        "retrying": queue.retrying,
        "oldest_s": None if oldest is None else max(0, now_ms - oldest) // 1_000,
        "in_per_s": rate("total_in"),
        "done_per_s": rate("total_succeeded"),
        "failed_per_s": rate("total_failed"),
        "total_in": queue.total_in,
        "total_succeeded": queue.total_succeeded,
        "total_failed": queue.total_failed,
        "paused": queue.paused,
        "reason": queue.reason or "",
    }


def _worker(session: SessionInfo) -> dict[str, Any]:
    return {
        "session": session.session,
        "host": session.host,
        "pid": session.pid,
        "lane": session.labels.get("lane", ""),
        "running": session.leases,
        "since": clock.from_ms(session.opened_ms),
    }


def _failure(job: JobInfo) -> dict[str, Any]:
    error = f"{job.error.type}: {job.error.message}" if job.error else job.reason or ""
    return {
        "id": str(job.id),
        "function": job.function,
        "queue": job.queue,
        "finished_at": job.finished_at,
        "error": " ".join(error.split())[:200],
    }


def sort_queues(queues: Sequence[dict[str, Any]], order: str) -> list[dict[str, Any]]:
    """By name, or by a figure with the largest first."""
    if order == "name":
        return sorted(queues, key=lambda row: str(row["name"]))
    field = {"ready": "ready", "running": "running", "rate": "done_per_s"}[order]
    return sorted(queues, key=lambda row: (-(row[field] or 0), str(row["name"])))
