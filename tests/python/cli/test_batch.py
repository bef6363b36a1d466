"""`raftwork batch`: what an operator does with batches whose program is gone (J11)."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from raftwork import Raftwork
from raftwork.storage.client_flows import ClientFlows


def left_open(shop: Path, name: str) -> str:
    """A batch with one member, as a program leaves it that dies inside of the block."""
    from shop import app, send_welcome  # type: ignore[import-not-found]

    assert isinstance(app, Raftwork)
    app.open()
    batch = app.batch(name).open()
    with app.batch(batch.id):
        send_welcome.enqueue(7)
    app.close()
    return str(batch.id)


def test_an_open_batch_is_listed_sealed_and_cancelled(raftwork: Any, shop: Path) -> None:
    assert raftwork("enqueue", "--app", "shop:app", "broken", "[1]").status == 0
    assert raftwork("batch", "list").out == "There is no batch.\n"
    id = left_open(shop, "month-end")
    (row,) = raftwork("batch", "list", "--json").json
    assert (row["id"], row["name"], row["state"], row["pending"]) == (id, "month-end", "open", 1)
    assert id in raftwork("batch", "list").out
    member = raftwork("jobs", "--task", "*welcome*", "--json").json["jobs"][0]
    assert raftwork("job", member["id"], "--json").json["batch"] == id
    assert raftwork("batch", "seal", id).out == "month-end is sealed.\n"
    assert raftwork("batch", "seal", id, "--json").json["state"] == "sealed"
    assert raftwork("batch", "cancel", id, "--reason", "late").out == "month-end is cancelled.\n"
    assert raftwork("batch", "cancel", id).out == "month-end was over before.\n"
    now = raftwork("job", member["id"], "--json").json
    assert (now["state"], now["reason"]) == ("cancelled", "late")


def test_a_batch_is_shown(raftwork: Any, shop: Path) -> None:
    id = left_open(shop, "month-end")
    waits = raftwork("enqueue", "--app", "shop:app", "broken", "[1]", "--after", id, "--on", "finish")
    assert waits.status == 0, waits.err
    text = raftwork("batch", "show", id).out
    assert text.startswith(f"month-end  [open]\nid        {id}\nopened    ")
    assert "members   1: 1 pending, 0 succeeded, 0 failed, 0 cancelled\n" in text
    assert text.endswith("children  1 waiting, or cancelled for it\n")
    found = raftwork("batch", "show", id, "--json").json
    assert (found["id"], found["pending"], found["finished"], found["children"]) == (id, 1, False, 1)
    assert raftwork("batch", "cancel", id).status == 0
    assert "\nfinished  " in raftwork("batch", "show", id).out


def test_an_unknown_batch_is_not_found(raftwork: Any, shop: Path) -> None:
    assert raftwork("enqueue", "--app", "shop:app", "broken", "[1]").status == 0
    for command in ("seal", "show", "cancel"):
        answer = raftwork("batch", command, str(uuid.uuid4()))
        assert answer.status == 4
        assert "RW412" in answer.err


def test_only_a_job_in_a_flow_is_asked_for_it(raftwork: Any, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shop import app, send_welcome  # type: ignore[import-not-found]

    app.open()
    alone, parent = send_welcome.enqueue(7), send_welcome.enqueue(8)
    child = send_welcome.using(after=parent).enqueue(9)
    app.close()
    asked: list[bytes] = []
    flow = ClientFlows.flow

    def note(self: ClientFlows, job: bytes, *reading: Any) -> Any:
        asked.append(job)
        return flow(self, job, *reading)

    monkeypatch.setattr(ClientFlows, "flow", note)
    found = [raftwork("job", str(job.id), "--json").json for job in (alone, parent, child)]
    assert asked == [parent.id.bytes, child.id.bytes]
    assert [(one["parents_count"], one["children"]) for one in found] == [(0, 0), (0, 1), (1, 0)]
    assert found[0]["parents"] == []


def test_a_job_tells_its_parents_and_how_many_wait_for_it(raftwork: Any, shop: Path) -> None:
    from shop import app, send_welcome  # type: ignore[import-not-found]

    app.open()
    batch = app.batch("month-end").open()
    parent = send_welcome.enqueue(7)
    child = send_welcome.using(after=[parent, batch], on="finish").enqueue(8)
    app.close()
    found = raftwork("job", str(child.id), "--json").json
    assert found["parents"] == [
        {"id": str(parent.id), "state": "enqueued", "on": "finish", "standing": "open"},
        {"id": str(batch.id), "state": "open", "on": "finish", "standing": "open"},
    ]
    assert (found["parents_count"], found["children"]) == (2, 0)
    text = raftwork("job", str(child.id)).out
    assert f"after     {parent.id} on finish, open  [enqueued]\n" in text
    assert "children" not in text
    assert raftwork("job", str(parent.id), "--json").json["children"] == 1
    assert "children  1 waiting, or cancelled for it\n" in raftwork("job", str(parent.id)).out
    assert raftwork("cancel", "--yes", str(parent.id)).status == 0
    assert "open  [open]" in raftwork("job", str(child.id)).out
    assert f"after     {parent.id} on finish, met  [cancelled]\n" in raftwork("job", str(child.id)).out
