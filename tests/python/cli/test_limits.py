"""`raftwork queue limit`, and what `job` and `queues` tell of limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

LIMITED = """
from raftwork import Fair, Limit, Raftwork

app = Raftwork("shop")


@app.task(queue="mail", limit=Limit(1, per="tenant"))
def sync(tenant: str) -> None: ...


@app.task(queue="mail", limit=Fair(per="tenant"))
def convert(tenant: str) -> None: ...
"""


def test_a_job_says_that_it_waits_for_a_turn(raftwork: Any, shop: Path) -> None:
    (shop / "limited.py").write_text(LIMITED)
    ids = [raftwork("enqueue", "--app", "limited:app", "convert", '["acme"]').out.split()[-1] for _ in range(2)]
    assert "for a turn of limited.convert:tenant=acme, place 2" in raftwork("job", ids[1]).out
    assert raftwork("job", ids[1], "--json").json["limited_by"] is None


def row(raftwork: Any) -> Any:
    (found,) = [queue for queue in raftwork("queues", "--json").json if queue["name"] == "mail"]
    return found


def test_a_queue_is_limited_and_no_more(raftwork: Any, shop: Path) -> None:
    assert raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]").status == 0
    assert raftwork("queue", "limit", "mail", "50").out == "Queue mail runs at most 50 jobs at once.\n"
    assert row(raftwork)["limit"] == 50
    assert "at most 50 at once" in raftwork("queues").out
    assert raftwork("queue", "limit", "mail", "none", "--json").json == {"queue": "mail", "limit": None}
    assert row(raftwork)["limit"] is None


@pytest.mark.parametrize("jobs", ["0", "-1", "many", "1000001"])
def test_a_limit_that_is_no_number_of_jobs_is_refused(raftwork: Any, shop: Path, jobs: str) -> None:
    answer = raftwork("queue", "limit", "mail", "--", jobs)
    assert answer.status == 2
    assert "pause it" in answer.err


def test_a_job_says_which_limit_holds_it_back(raftwork: Any, shop: Path) -> None:
    (shop / "limited.py").write_text(LIMITED)
    from raftwork import Raftwork

    ids = [raftwork("enqueue", "--app", "limited:app", "sync", '["acme"]').out.split()[-1] for _ in range(2)]
    with Raftwork("shop") as app:
        session = app.storage.open_session("worker", ttl_ms=600_000)
        (running,) = app.storage.claim(session, [("mail", 1)], ["limited.sync"], 9)
        assert running.id.hex() == ids[0].replace("-", "")
    assert "limited by limited.sync:tenant=acme, place 1" in raftwork("job", ids[1]).out
    assert raftwork("job", ids[1], "--json").json["place"] == 1
    assert row(raftwork)["held_back"] == 1
