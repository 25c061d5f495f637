"""Sessions of exchanges as arrays: the one door of `exchange_calendars`, and of the pandas in it.

Decides: which calendar a name means and from which day on it is trusted. Invariants: a name that is
not known, and an installation without the library, are refused by name; all sessions of the days
that a calendar says it knows are in it. Must not know: bars, intervals, presets.

The library is loaded when the first exchange is asked for. A calendar is made once per process,
whole: some ten thousand sessions, about 350 kB; making one takes a fraction of a second.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, Final

import numpy as np

from seamline.presets.calendars import CALENDARS
from seamline.presets.document import suggestion
from seamline.schemas.columns import I8
from seamline.schemas.errors import UsageError
from seamline.schemas.times import DAY_NS
from seamline.streams.kernel.calendar import ALWAYS, Calendar, Sessions

# Where the library states no first day of its own it extrapolates without end. Holidays of earlier
# decades are recorded for few exchanges.
FIRST_DAY: Final = "1990-01-01"
_CALENDARS_MAX: Final = 64


def calendar(name: str) -> Calendar:
    """The calendar of this name: `24/7`, or the ISO 10383 code of an exchange (XNYS, XNAS, XLON).

    Raises UsageError naming `calendar`: with near matches for an unknown name, with the extra to
    install where `exchange_calendars` is absent.
    """
    if name == ALWAYS.name:
        return ALWAYS
    if name not in CALENDARS:
        raise UsageError(
            "no such calendar",
            parameter="calendar",
            value=name,
            fix=suggestion(str(name), CALENDARS) or f"One of {', '.join(CALENDARS)}",
        )
    return _exchange(name)


@lru_cache(maxsize=_CALENDARS_MAX)
def _exchange(name: str) -> Calendar:
    try:
        import exchange_calendars
    except ImportError:
        raise UsageError(
            "sessions of exchanges need the package exchange_calendars",
            parameter="calendar",
            value=name,
            fix="pip install 'seamline[calendars]'",
        ) from None
    with warnings.catch_warnings():
        # What pandas will change is for the library to mend, not for our callers.
        warnings.simplefilter("ignore", DeprecationWarning)
        return Calendar(name, _sessions(_made(exchange_calendars, name)))


def _made(library: Any, name: str) -> Any:
    try:
        return library.get_calendar(name, start=FIRST_DAY)
    except ValueError:  # its record begins later
        return library.get_calendar(name, start=type(library.get_calendar(name)).bound_min())


def _sessions(made: Any) -> Sessions:
    dates = _ns(made.sessions.to_series())
    opens, closes = _ns(made.opens), _ns(made.closes)
    breaks = made.break_starts.notna().to_numpy()
    starts = np.concatenate((opens, _ns(made.break_ends[breaks])))
    ends = np.concatenate((np.where(breaks, 0, closes), closes[breaks]))
    ends[: len(opens)][breaks] = _ns(made.break_starts[breaks])
    order = np.argsort(starts)
    trading = np.stack((starts[order], ends[order]), axis=1)
    for array in (dates, trading):
        array.setflags(write=False)
    # A session may trade on the evening before its date in UTC: the outermost days are not whole.
    return Sessions(dates, trading, (int(dates[0]) + DAY_NS, int(dates[-1])))


def _ns(times: Any) -> I8:
    found: I8 = times.dt.as_unit("ns").astype("int64").to_numpy(copy=True)
    return found
