"""The reference pages name every setting and option, with their defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raftwork import durations
from raftwork.config import SETTINGS
from raftwork.options import OPTIONS

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


def rows(page: str) -> dict[str, str]:
    """First column to second, of the first table whose first column is code."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", (REFERENCE / page).read_text(), re.M))


def test_every_setting_is_on_its_page_in_order() -> None:
    assert list(rows("configuration.md")) == list(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_default_of_a_setting_is_the_one_on_the_page(name: str) -> None:
    default = SETTINGS[name].default
    shown = rows("configuration.md")[name].strip("`")
    if name.startswith("keep_") or name in ("submit_timeout", "session_ttl"):
        assert shown == durations.text(default)
    elif default is None:
        assert shown in ("none", "core")
    else:
        assert shown == str(default)


def test_every_option_is_on_its_page_in_order() -> None:
    assert list(rows("options.md")) == list(OPTIONS)
