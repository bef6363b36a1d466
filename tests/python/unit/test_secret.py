"""A Secret is shown nowhere, travels exactly, and is refused where it would be stored in clear."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftwork import ConfigError, InvalidOption, Raftwork, Secret, SecretRefused, descriptions, serde
from raftwork.config import Config

WORD = "tangerine"


@dataclass
class Account:
    user: str
    token: Secret[str]


HOLDERS: list[Any] = [Secret(WORD), [Secret(WORD)], {"k": (Secret(WORD), 1)}, {Secret(WORD)}, {Secret(WORD): 1},
                      Account("ann", Secret(WORD)), Secret([WORD, Secret(WORD)])]  # fmt: skip


@pytest.mark.parametrize("holder", HOLDERS)
def test_it_is_shown_nowhere(holder: Any) -> None:
    packed = serde.encode(holder, secrets=True)
    shown = [repr(holder), str(holder), f"{holder}", descriptions.describe(packed), repr([holder])]
    assert not [text for text in shown if WORD in text]
    assert all("***" in text for text in shown)


def test_one_by_itself_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(WORD)
    assert (repr(secret), str(secret), f"{secret:>5}", f"{secret!r}") == ("Secret('***')", "***", "  ***", repr(secret))
    assert json.dumps([secret], default=str) == '["***"]'
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        vars(secret)
    logging.getLogger("shop").error("with %s and %r", secret, [secret])
    assert WORD not in caplog.text
    assert secret.reveal() == WORD


def test_it_compares_by_value_and_is_copied_as_itself() -> None:
    assert Secret(1) == Secret(1) != Secret(2)
    assert Secret(WORD) != WORD
    assert len({Secret(1), Secret(1), Secret(2)}) == 2
    account = Account("ann", Secret(WORD))
    assert copy.deepcopy(account) == copy.copy(account) == account
    assert asdict(account)["token"] == Secret(WORD)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3).map(Secret)))
def test_it_comes_back_as_it_was(value: Any) -> None:
    assert serde.decode(serde.encode(Secret(value), secrets=True)) == Secret(value)
    assert serde.decode_args(serde.encode_args((Secret(value),), {"k": Secret(value)}, secrets=True)) == (
        [Secret(value)],
        {"k": Secret(value)},
    )


@pytest.mark.parametrize("holder", HOLDERS)
def test_without_a_key_it_is_refused_with_its_place(holder: Any) -> None:
    app = Raftwork("shop", "memory://")

    @app.task(name="send")
    def send(number: int, token: Any) -> None: ...

    for call in (lambda: send.enqueue(7, token=holder), lambda: app.enqueue_many([send.s(7, token=holder)])):
        with pytest.raises(SecretRefused, match=r"RW115 .*encryption_key_file, or secrets_in_clear") as caught:
            call()
        assert "token" in caught.value.path
        assert WORD not in str(caught.value)
    assert list(app.jobs()) == []
    app.close()


def test_a_subclass_is_refused() -> None:
    class Own(Secret[str]):
        pass

    with pytest.raises(serde.SerializationError) as caught:
        serde.encode(Own(WORD), secrets=True)
    assert WORD not in str(caught.value)


def test_it_may_be_allowed_in_clear_and_is_still_not_shown() -> None:
    with Raftwork("shop", "memory://", secrets_in_clear=True) as app:

        @app.task(name="send", unique="args")
        def send(token: Secret[str]) -> None: ...

        job = send.enqueue(Secret(WORD))
        assert send.enqueue(token=Secret(WORD)) == job
        assert send.enqueue(Secret("other")) != job
        info = job.info()
        assert info.args == [Secret(WORD)]
        assert info.call == "send(Secret('***'))"
        assert WORD not in repr(info)
        assert WORD not in repr(send.s(Secret(WORD)))
        assert list(app.jobs(f"args.0:{WORD}")) == []
        assert list(app.jobs('args.0:"***"')) == []


@pytest.mark.parametrize(
    ("template", "argument"),
    [("{token}", Secret(WORD)), ("{token!r}", Secret(WORD)), ("{token.token}", Account("ann", Secret(WORD))),
     ("{token}", Account("ann", Secret(WORD))), ("{token[0]}", [Secret(WORD)])],
)  # fmt: skip
def test_a_key_made_of_a_mask_is_refused(template: str, argument: Any) -> None:
    app = Raftwork("shop", "memory://", secrets_in_clear=True)

    @app.task(name="send", unique=template)
    def send(token: Any) -> None: ...

    with pytest.raises(InvalidOption, match="same text for all of them"):
        send.enqueue(argument)
    plain = send.using(unique="{token}").enqueue("text with *** inside")
    assert plain.info().unique_key == "send:text with *** inside"
    app.close()


@pytest.mark.parametrize("value", ["yes", 1, None, "True", ""])
def test_allowing_it_takes_a_clear_word(value: Any) -> None:
    with pytest.raises(ConfigError, match="neither true nor false"):
        Config.load({"secrets_in_clear": value}, {})
    assert Config.load({}, {"RAFTWORK_SECRETS_IN_CLEAR": "true"})["secrets_in_clear"] is True
