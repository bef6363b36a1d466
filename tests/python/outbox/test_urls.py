"""URLs of outboxes: what is shown of them, and which are refused."""

from __future__ import annotations

import pytest

from raftwork import ConfigError, OutboxError, Raftwork


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:qz3kx@127.0.0.1:1/shop",
        "postgresql://ann:qz%2F3kx@127.0.0.1:1/shop",
        "postgresql://ann:#qz3kx?@127.0.0.1:1/shop",
        "postgresql+psycopg://127.0.0.1:1/shop?user=ann&password=qz3kx",
    ],
)
def test_a_password_is_not_shown(app: Raftwork, url: str) -> None:
    box = app.outbox(url)
    with pytest.raises(OutboxError) as told:
        box.status()
    own = Raftwork("shop", outbox=url)
    assert "3kx" not in f"{box!r} {told.value} {own.config.rows()!r}"
    assert own.outbox().url == "postgresql://ann@127.0.0.1:1/shop"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:qz/3kx@127.0.0.1:1/shop",
        "postgresql://ann:33/3kx@127.0.0.1:1/shop",
        "postgresql://ann:qz3kx%@127.0.0.1:1/shop",
        "postgresql://ann:qz3kx\ud800@127.0.0.1:1/shop",
        "postgresql://127.0.0.1:1/shop?password",
        "postgresql://ann:qz3kx@[::1/shop",
    ],
)
def test_a_url_that_cannot_be_read_is_a_wrong_setting_and_not_shown(app: Raftwork, url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as told:
        app.outbox(url)
    assert told.value.__suppress_context__ or told.value.__context__ is None
    assert "3kx" not in str(told.value) and "qz" not in str(told.value)
    assert "3kx" not in repr(Raftwork("shop", outbox=url).config.rows())


def test_several_hosts(app: Raftwork) -> None:
    url = "postgresql://ann@one:5432,two,[::1]:7/shop?target_session_attrs=read-write"
    assert app.outbox(url).url == "postgresql://ann@one:5432,two,[::1]:7/shop"
    assert app.outbox("postgresql://%2Frun%2Fdb/we%20sell").url == "postgresql://%2Frun%2Fdb/we%20sell"
