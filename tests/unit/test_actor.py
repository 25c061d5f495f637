"""Whose name the audit log keeps."""

from __future__ import annotations

import getpass

import pytest

from seamline.schemas.errors import UsageError
from seamline.sdk.cli.actor import actor_named


def test_the_option_wins_over_the_environment_and_that_over_the_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "login")
    assert actor_named(" ann ", {"SEAMLINE_ACTOR": "bob"}) == "ann"
    assert actor_named(None, {"SEAMLINE_ACTOR": "bob"}) == "bob"
    assert actor_named(None, {}) == "login"


@pytest.mark.parametrize("name", ["", "  ", "a" * 201, "two\nlines"])
def test_what_is_no_name_is_refused_where_it_was_given(name: str) -> None:
    with pytest.raises(UsageError, match="actor = "):
        actor_named(name, {})
    with pytest.raises(UsageError, match="SEAMLINE_ACTOR = "):
        actor_named(None, {"SEAMLINE_ACTOR": name})


def test_somebody_without_a_login_name_has_to_say_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise OSError

    monkeypatch.setattr(getpass, "getuser", nobody)
    with pytest.raises(UsageError, match="--actor"):
        actor_named(None, {})
