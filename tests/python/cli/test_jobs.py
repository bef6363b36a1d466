"""Enqueue, look, change: the words of an operator."""

import importlib
import subprocess
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from raftwork import Raftwork

UNKNOWN = "00000000-0000-7000-8000-000000000000"


def put(raftwork: Any, task: str = "send_welcome", arguments: str = '{"user_id": 7}', *options: str) -> str:
    answer = raftwork("enqueue", "--app", "shop:app", task, arguments, "--json", *options)
    assert answer.status == 0, answer.err
    return str(answer.json["id"])


def test_enqueued_job_is_found_again(raftwork: Any) -> None:
    job = put(raftwork)
    assert uuid.UUID(job).version == 7
    answer = raftwork("job", job, "--json")
    assert answer.status == 0
    assert answer.json["state"] == "enqueued"
    assert answer.json["call"] == "send_welcome(user_id=7)"
    assert answer.json["tags"] == ["crm"]
    assert answer.json["version"] == 1
    plain = raftwork("job", job)
    assert "send_welcome(user_id=7)  [enqueued]" in plain.out
    assert job in raftwork("jobs").out


def test_options_of_enqueue(raftwork: Any) -> None:
    job = put(raftwork, "send_welcome", '[8, "vip"]', "--delay", "10m", "--priority", "5", "--queue", "slow")
    answer = raftwork("job", job, "--json").json
    assert (answer["state"], answer["priority"], answer["queue"]) == ("scheduled", 5, "slow")
    assert answer["call"] == "send_welcome(8, 'vip')"


def test_options_of_time_and_attempts(raftwork: Any) -> None:
    job = put(raftwork, "send_welcome", "[8]", "--run-at", "2h", "--expires", "1h", "--retry", "3")
    with Raftwork("shop") as app:
        info = app.job(job).info()
    assert (info.state, info.max_attempts) == ("scheduled", 3)
    assert info.run_at is not None and info.expires_at is not None
    assert info.expires_at - info.run_at == timedelta(hours=1)
    assert timedelta(minutes=119) < info.run_at - info.created_at <= timedelta(hours=2)
    past = put(raftwork, "send_welcome", "[9]", "--run-at", "2026-01-01T08:00Z")
    assert raftwork("job", past, "--json").json["state"] == "enqueued"


def test_a_unique_job_is_stored_once(raftwork: Any) -> None:
    first = put(raftwork, "send_welcome", "[8]", "--unique", "import 7")
    assert put(raftwork, "send_welcome", "[9]", "--unique", "import 7") == first
    assert put(raftwork, "send_welcome", "[9]", "--unique", "import 8") != first
    by_user = put(raftwork, "send_welcome", "[9]", "--unique", "user:{user_id}")
    assert put(raftwork, "send_welcome", '[9, "vip"]', "--unique", "user:{user_id}") == by_user
    by_args = put(raftwork, "send_welcome", "[9]", "--unique", "args")
    assert put(raftwork, "send_welcome", '{"user_id": 9}', "--unique", "args") == by_args
    assert raftwork("job", first, "--json").json["unique_key"] == "shop.send_welcome:import 7"
    assert raftwork("enqueue", "--app", "shop:app", "send_welcome", "[1]", "--unique", "{user}").status == 2


def test_a_job_waits_for_others(raftwork: Any) -> None:
    first, second = put(raftwork), put(raftwork, "send_welcome", "[8]")
    both = put(raftwork, "send_welcome", "[9]", "--after", first, "--after", second)
    either = put(raftwork, "send_welcome", "[10]", "--after", first, "--on", "finish")
    found = raftwork("job", both, "--json").json
    assert (found["state"], [parent["id"] for parent in found["parents"]]) == ("awaiting", [first, second])
    assert {parent["on"] for parent in found["parents"]} == {"success"}
    assert raftwork("cancel", first).status == 0
    states = [raftwork("job", job, "--json").json["state"] for job in (both, either)]
    assert states == ["cancelled", "enqueued"]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["send_welcome", "[1]", "--on", "finish"], 2, "--after"),
        (["send_welcome", "[1]", "--after", "7"], 2, "'7' is not a job id"),
        (["send_welcome", "[1]", "--after", UNKNOWN], 5, UNKNOWN),
        (["send_welcome", "[1]", "--retry", "0"], 2, "retry"),
        (["send_welcome", "[1]", "--expires", "0s"], 2, "expires"),
        (["send_welcome", "[1]", "--run-at", "25:00"], 2, "25:00"),
        (["send_welcome", "[1]", "--run-at", "1h", "--delay", "1h"], 2, "Give one"),
        (["send_welcom"], 4, "Did you mean"),
        (["send_welcome", "{"], 2, "is not JSON"),
        (["send_welcome", "7"], 2, "neither an object nor an array"),
        (["send_welcome", '{"user": 7}'], 2, "user"),
        (["send_welcome", "[1]", "--priority", "101"], 2, "101"),
        (["send_welcome", "[1]", "--delay", "10"], 2, "RW113"),
        (["send_welcome", "[1]", "--timeout", "5"], 2, "--wait"),
    ],
)
def test_wrong_enqueue_stores_nothing(raftwork: Any, arguments: list[str], status: int, text: str) -> None:
    put(raftwork)
    answer = raftwork("enqueue", "--app", "shop:app", *arguments)
    assert answer.status == status
    assert text in answer.err
    assert len(raftwork("jobs", "--json").json["jobs"]) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--queue", 'a b,"c'),
        ("--queue", "=a"),
        ("--queue", "a state:failed"),
        ("--arg", "template=x, y"),
        ("--arg", "user_id=8"),
    ],
)
def test_an_option_means_its_whole_value(raftwork: Any, option: str, value: str) -> None:
    queue = value if option == "--queue" else "b"
    put(raftwork, "send_welcome", '{"user_id": 7, "template": "x"}', "--queue", "a")
    job = put(raftwork, "send_welcome", '{"user_id": 8, "template": "x, y"}', "--queue", queue)
    answer = raftwork("jobs", option, value, "--json")
    assert [found["id"] for found in answer.json["jobs"]] == [job], answer.err


def test_patterns_are_left_to_the_filter(raftwork: Any) -> None:
    job = put(raftwork)
    assert [found["id"] for found in raftwork("jobs", "--task", "*welcome*", "--json").json["jobs"]] == [job]
    assert [found["id"] for found in raftwork("jobs", "--arg", "user_id>6", "--json").json["jobs"]] == [job]
    assert raftwork("jobs", "--arg", "user_id>7", "--json").json["jobs"] == []


def test_a_task_may_be_named_by_its_last_part(raftwork: Any) -> None:
    """As `raftwork enqueue` does; the name that is stored is shop.send_welcome."""
    job = put(raftwork)
    put(raftwork, "broken", "[7]")

    def ids(*tasks: str) -> list[str]:
        options = [word for task in tasks for word in ("--task", task)]
        return [found["id"] for found in raftwork("jobs", *options, "--json").json["jobs"]]

    assert ids("send_welcome") == ids("shop.send_welcome") == [job]
    assert len(ids("send_welcome", "shop.broken")) == len(ids("send_welcome", "broken")) == 2
    assert ids("welcome") == ids("hop.send_welcome") == ids("jobs.send_welcome") == []
    assert raftwork("jobs", "fn:send_welcome", "--json").json["jobs"] == [], "a filter means the name as it is"
    assert raftwork("jobs", "--task", "send_welcome", "--task", "shop.*").status == 2
    assert raftwork("cancel", "--task", "send_welcome", "--yes", "--json").json["changed"] == 1
    again = raftwork("retry", "--state", "cancelled", "--task", "send_welcome", "--since", "2h", "--yes", "--json")
    assert again.json["changed"] == 1, again.err
    assert raftwork("job", job, "--json").json["state"] == "enqueued"


def test_a_last_part_of_several_names_is_refused(raftwork: Any, shop: Path) -> None:
    job = put(raftwork)
    with Raftwork("crm") as other:

        @other.task(name="crm.send_welcome")
        def send_welcome() -> None: ...

        send_welcome.enqueue()
        for command in (["jobs"], ["cancel", "--yes"], ["delete", "--dry-run"]):
            answer = raftwork(*command, "--task", "send_welcome")
            assert answer.status == 2
            assert "may mean crm.send_welcome, shop.send_welcome" in answer.err

        @other.task(name="send_welcome")
        def bare() -> None: ...

        named = str(bare.enqueue().id)
    found = raftwork("jobs", "--task", "send_welcome", "--json").json["jobs"]
    assert [one["id"] for one in found] == [named], "the whole name comes first"
    assert raftwork("cancel", "--task", "shop.send_welcome", "--yes").status == 0
    assert raftwork("job", job, "--json").json["state"] == "cancelled"


def test_enqueue_needs_an_application(raftwork: Any) -> None:
    answer = raftwork("enqueue", "send_welcome")
    assert answer.status == 2
    assert "--app" in answer.err


def test_jobs_by_filter_and_by_options(raftwork: Any) -> None:
    first = put(raftwork)
    second = put(raftwork, "send_welcome", '{"user_id": 8}', "--delay", "1h")

    def ids(*arguments: str) -> list[str]:
        return [row["id"] for row in raftwork("jobs", "--json", *arguments).json["jobs"]]

    assert ids() == [second, first]
    assert ids("--limit", "1") == [second]
    assert ids("--state", "scheduled") == [second]
    assert ids("--tag", "crm", "--queue", "mail") == [second, first]
    assert ids("--arg", "user_id=7") == [first]
    assert ids("--since", "1h") == [second, first]
    assert ids("state:enqueued") == [first]
    assert ids("--task", "shop.broken") == []
    assert ids("--batch", first) == ids("--schedule", "nightly") == ids("--fingerprint", "0123456789abcdef") == []
    assert raftwork("jobs", "--batch", "night").status == 2
    assert raftwork("jobs", "state:").status == 2


def test_cancel_retry_and_delete_by_id(raftwork: Any) -> None:
    job = put(raftwork)
    assert raftwork("cancel", job, "--reason", "changed my mind").status == 0
    assert raftwork("job", job, "--json").json["reason"] == "changed my mind"
    assert raftwork("cancel", job).status == 5
    assert raftwork("retry", job, "--json").json["changed"] == 1
    assert raftwork("job", job, "--json").json["state"] == "enqueued"
    assert raftwork("retry", job).status == 5
    assert raftwork("delete", job).status == 0
    assert raftwork("job", job).status == 4


@pytest.mark.parametrize("command", ["retry", "cancel", "delete", "job", "move --to slow", "priority --to 1"])
def test_unknown_job_is_not_found(raftwork: Any, command: str) -> None:
    put(raftwork)
    assert raftwork(*command.split(), UNKNOWN).status == 4
    assert raftwork(*command.split(), "7").status == 2


def test_changing_many_needs_a_yes(raftwork: Any) -> None:
    for number in range(3):
        put(raftwork, "send_welcome", f"[{number}]")
    assert raftwork("cancel").status == 2
    asked = raftwork("cancel", "--state", "enqueued")
    assert asked.status == 2
    assert "3 jobs fit" in asked.err
    assert raftwork("cancel", "--state", "enqueued", "--dry-run", "--json").json == {"matched": 3, "changed": 0}
    assert raftwork("cancel", "--filter", "state:enqueued", "--yes", "--json").json["changed"] == 3
    assert raftwork("retry", "--all", "--yes", "--json").json["changed"] == 3
    assert raftwork("delete", "--all", "--yes", "--json").json["changed"] == 3
    assert raftwork("jobs").out.strip() == "No job fits."


def test_move_and_priority_change_jobs_that_wait(raftwork: Any) -> None:
    jobs = [put(raftwork, "send_welcome", f"[{number}]") for number in range(3)]
    assert raftwork("move", "--to", "slow", jobs[0]).out == f"{jobs[0]}  done\n"
    assert raftwork("move", "--to", "slow", jobs[0]).status == 5
    asked = raftwork("move", "--to", "slow", "--queue", "mail")
    assert asked.status == 2 and "2 jobs fit. Add --yes to move them" in asked.err
    answer = raftwork("move", "--to", "slow", "--queue", "mail", "--yes", "--json").json
    assert (answer["matched"], answer["changed"], answer["outcomes"]) == (2, 2, {"done": 2})
    asked = raftwork("priority", "--to", "-5", "--queue", "slow")
    assert asked.status == 2 and "Add --yes to give another priority to them" in asked.err
    assert raftwork("priority", "--to", "-5", "--queue", "slow", "--yes", "--json").json["changed"] == 3
    found = raftwork("job", jobs[1], "--json").json
    assert (found["queue"], found["priority"]) == ("slow", -5)
    assert raftwork("priority", "--to", "101", jobs[0]).status == 2
    assert raftwork("move", "--to", "", jobs[0]).status == 2
    assert raftwork("move", jobs[0]).status == 2
    assert "raftwork priority --help" in raftwork("priority", "--to", "1").err


def test_pause_and_resume_show_in_queues(raftwork: Any) -> None:
    put(raftwork)
    assert raftwork("queue", "pause", "mail", "--until", "2h", "--reason", "provider down").status == 0
    row = raftwork("queues", "--json").json[0]
    assert (row["name"], row["enqueued"], row["paused"], row["reason"]) == ("mail", 1, True, "provider down")
    assert "paused until" in raftwork("queues").out
    assert raftwork("queue", "resume", "mail").status == 0
    assert raftwork("queues", "--json").json[0]["paused"] is False
    assert raftwork("queue", "pause", "mail", "--until", "soon").status == 2


def test_status_counts_jobs(raftwork: Any) -> None:
    put(raftwork)
    answer = raftwork("status", "--json")
    assert answer.status == 0
    assert answer.json["jobs"]["enqueued"] == 1
    assert answer.json["health"]["status"] == "ok"
    assert "enqueued" in raftwork("status").out


def test_wait_tells_how_the_job_ended(raftwork: Any, worker: "subprocess.Popen[str]") -> None:
    good = raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]", "--wait", "--timeout", "30")
    assert good.status == 0, good.err
    assert "'sent default to 7'" in good.out
    bad = raftwork("enqueue", "--app", "shop:app", "broken", "[7]", "--wait", "--timeout", "30", "--json")
    assert bad.status == 1, bad.err
    assert bad.json["error"] == {"type": "ValueError", "message": "no user 7"}
    assert "ValueError" in raftwork("jobs", "--state", "failed").out
    found = raftwork("jobs", "--fingerprint", bad.json["fingerprint"], "--json").json["jobs"]
    assert [row["id"] for row in found] == [bad.json["id"]]


def test_a_secret_is_given_on_the_command_line_and_not_shown_again(
    raftwork: Any, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (shop / "shop.py").open("a") as file:
        file.write(
            "\nfrom raftwork import JobContext, Secret\n\n\n@app.task\n"
            "def pay(ctx: JobContext, token: Secret[str], pin: 'Secret[int]', amount: int) -> None: ...\n"
        )
    refused = raftwork("enqueue", "--app", "shop:app", "pay", '["tangerine", 4111, 5]', "--debug")
    assert refused.status == 2
    assert "RW115 Argument 1 is a Secret" in refused.err
    assert "tangerine" not in refused.out + refused.err
    monkeypatch.setenv("RAFTWORK_SECRETS_IN_CLEAR", "true")
    importlib.import_module("shop").app._config = None
    importlib.import_module("shop").app._codecs = None
    importlib.import_module("shop").pay._plan = None
    job = put(raftwork, "pay", '["tangerine", 4111, 5]')
    named = put(raftwork, "pay", '{"token": "tangerine", "pin": 4111, "amount": 5}')
    for words in (("job", job), ("job", job, "--json"), ("job", named), ("jobs", "--json"), ("jobs", "--arg", "0=x")):
        answer = raftwork(*words)
        assert "tangerine" not in answer.out + answer.err
        assert "4111" not in answer.out + answer.err
    assert raftwork("job", job, "--json").json["call"] == "pay(Secret('***'), Secret('***'), 5)"
    assert raftwork("job", named, "--json").json["call"] == "pay(token=Secret('***'), pin=Secret('***'), amount=5)"
    assert [row["id"] for row in raftwork("jobs", "--arg", "2=5", "--json").json["jobs"]] == [job]
    assert raftwork("jobs", "--arg", "0=tangerine", "--json").json["jobs"] == []
