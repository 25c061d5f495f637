"""Whose name and whose reason the audit log keeps."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from seamline.schemas.errors import UsageError
from seamline.sdk.cli.actor import actor_named, reason_given
from seamline.sdk.cli.main import app


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


def commands(found: Any) -> Iterator[Any]:
    """Every command below a group."""
    for inner in getattr(found, "commands", {}).values():
        yield from commands(inner)
    if not hasattr(found, "commands"):
        yield found


def test_reason_is_the_actors_in_every_command() -> None:
    every = list(commands(typer.main.get_command(app)))
    said = {o.help for each in every for o in each.params if "--reason" in o.opts}
    assert said == {"why; kept in the audit log"}
    with_actor = [each for each in every if "--actor" in opts(each)]
    assert len(with_actor) >= 7
    # A rehearsal changes nothing: what it found is the reason.
    assert [c.name for c in with_actor if "--reason" not in opts(c)] == ["rehearse"]


def opts(command: Any) -> set[str]:
    return {name for option in command.params for name in option.opts}


@pytest.mark.parametrize("reason", ["", "  ", "a" * 2_001])
def test_a_reason_says_something(reason: str) -> None:
    with pytest.raises(UsageError, match="reason"):
        reason_given(reason)
    assert reason_given("they are done") == "they are done"
