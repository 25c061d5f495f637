"""Who changes something and why: what the audit log keeps of a person or a program.

Decides: where the name comes from: the option, `SEAMLINE_ACTOR`, the login name. Invariants: there
is always a name and a reason; one that the log cannot hold is refused before anything is done.
`--reason` is the actor's in every command; what refused a record is a rule. Must not know: what is
changed.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Annotated, Final

import typer

from seamline.schemas.audit import ACTOR_CHARS_MAX, REASON_CHARS_MAX
from seamline.schemas.errors import UsageError

ACTOR_VARIABLE: Final = "SEAMLINE_ACTOR"

ActorOption = Annotated[
    str | None,
    typer.Option("--actor", help=f"who does this (default: {ACTOR_VARIABLE}, else the login name)"),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="why; kept in the audit log")]


def reason_given(reason: str) -> str:
    """The reason. Raises UsageError where it says nothing or is too long."""
    if not reason.strip() or len(reason) > REASON_CHARS_MAX:
        raise UsageError(
            "not a reason",
            parameter="reason",
            value=reason[:80],
            fix=f"Say why, for the log, in 1 to {REASON_CHARS_MAX} characters",
        )
    return reason


def actor_named(option: str | None, env: Mapping[str, str]) -> str:
    """The name. Raises UsageError where there is none, or where it is empty or too long."""
    parameter, name = "actor", option
    if name is None and env.get(ACTOR_VARIABLE) is not None:
        parameter, name = ACTOR_VARIABLE, env[ACTOR_VARIABLE]
    if name is None:
        name = _login_name()
    if not name or not name.strip() or len(name) > ACTOR_CHARS_MAX or not name.isprintable():
        raise UsageError(
            "not the name of somebody",
            parameter=parameter,
            value=name,
            fix=f"Give --actor NAME, in 1 to {ACTOR_CHARS_MAX} characters of one line",
        )
    return name.strip()


def _login_name() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no login name in some containers
        return None
