"""`raftwork errors`: three thousand failures as the mistakes that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raftwork import JobFailed


def test_failures_are_shown_as_the_mistakes_that_they_are(raftwork: Any, shop: Path) -> None:
    assert raftwork("enqueue", "--app", "shop:app", "send_welcome", "[1]").status == 0
    assert raftwork("errors").out == "No run has failed.\n"
    from shop import app, broken  # type: ignore[import-not-found]

    app.open()
    with app.running(workers=True):
        jobs = [broken.enqueue(order) for order in range(5)]
        for job in jobs:
            with pytest.raises(JobFailed):
                job.result(timeout=60)
    app.close()
    (group,) = raftwork("errors", "--json").json
    assert (group["runs"], group["failed"]) == (5, 5)
    assert group["last_job"] in {str(job.id) for job in jobs}
    shown = raftwork("errors", "--limit", "1").out
    assert group["fingerprint"] in shown
    assert group["error"] in shown
    retried = raftwork("retry", "--fingerprint", group["fingerprint"], "--yes", "--json")
    assert retried.status == 0
    assert retried.json["changed"] == 5


def test_more_groups_than_are_remembered_are_refused(raftwork: Any, shop: Path) -> None:
    answer = raftwork("errors", "--limit", "1001")
    assert answer.status == 2
    assert "1001" in answer.err
