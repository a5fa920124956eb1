"""How long what does not go on is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias

from pint_diffusion.errors import InputError
from pint_diffusion.runtime.pace import Call, Pace

Seconds: TypeAlias = float | Literal["auto"] | None
"""A limit in seconds; ``auto``: learnt from what was seen; None: none."""

STEP = 0.5
"""Most seconds by which a `Clock` moves on at a look, or twice the time between two looks."""

OnLost: TypeAlias = Callable[[str, int], None]
"""Is told why a run can't go on, in a sentence, and the one rank that is to say so to the user."""


@dataclass(frozen=True)
class Limits:
    """What ends a run that does not go on.

    Attributes
    ----------
    silence : float or None
        Seconds of silence after which another rank is taken for lost, or twice its longest network
        call; None: never.
    call : float, "auto" or None
        Seconds that one network call may take; ``auto``: see `Pace.allowed`; None: any time.
    """

    silence: float | None = None
    call: Seconds = None

    def check(self) -> None:
        """Refuse what is no limit.

        Raises
        ------
        InputError
            If a limit is not above 0.
        """
        learnt = None if self.call == "auto" else self.call
        for name, given in (("watchdog", self.silence), ("call_limit", learnt)):
            number = isinstance(given, int | float) and not isinstance(given, bool)
            if given is not None and not (number and 0 < given < inf):
                raise InputError(
                    f"`{name}` is {given!r}, but must be a number of seconds above 0, or None"
                )


FOREVER = Limits()
"""Nothing ends such a run."""


class Overdue:
    """Looks whether the network call under way takes longer than it may.

    Parameters
    ----------
    pace : Pace
        Knows the call.
    limit : float or "auto"
        Seconds that one may take.
    who : str
        This rank, in words.

    Attributes
    ----------
    period : float
        Most seconds from one look to the next.
    """

    def __init__(self, pace: Pace, limit: float | Literal["auto"], who: str) -> None:
        self.period = 1.0 if limit == "auto" else min(1.0, limit / 4)
        self._pace, self._limit, self._who = pace, limit, who
        self._call: Call | None = None
        self._age = 0.0

    def look(self, passed: float) -> str | None:
        """Name the call, in a sentence, if it takes too long.

        Parameters
        ----------
        passed : float
            Seconds since the last look in which this process could run.
        """
        call = self._pace.open
        if call is None or call is not self._call:
            self._call, self._age = call, 0.0
            return None
        self._age += passed
        limit = self._allowed(call)
        if self._age <= limit:
            return None
        return self._cause(call, limit)

    def expected(self) -> tuple[float, str]:
        """Return the seconds in which the newest call ends, and what to say if it does not.

        Before the first call it is that one, which may have begun since.
        """
        call = self._pace.newest or Call(1, lambda: "the start of the run", 0.0)
        limit = self._allowed(call)
        return limit, self._cause(call, limit)

    def _allowed(self, call: Call) -> float:
        return self._pace.allowed(call.rows) if self._limit == "auto" else self._limit

    def _cause(self, call: Call, limit: float) -> str:
        return (
            f"{self._who}: a network call at {call.place()} has taken more than {limit:.3g} s: "
            "raise `call_limit` if it may take longer"
        )


class Clock:
    """Seconds in which this process could run: it stands still while the process is stopped.

    Parameters
    ----------
    period : float
        Seconds from one look at it to the next.

    Attributes
    ----------
    now : float
        Seconds since it was made, as of the last look.
    """

    def __init__(self, period: float) -> None:
        self.now = 0.0
        self._period = period
        self._seen = time.monotonic()

    def tick(self) -> float:
        """Look at it; return the seconds since the last look."""
        now = time.monotonic()
        passed, self._seen = min(now - self._seen, max(2 * self._period, STEP)), now
        self.now += passed
        return passed


class Patrol:
    """A thread that looks whether all is well, until it is told to end.

    Parameters
    ----------
    look : callable
        Is given the seconds since the last look in which this process could run. The thread ends
        when it returns True.
    period : float
        Seconds from one look to the next.
    """

    def __init__(self, look: Callable[[float], bool], period: float) -> None:
        self._look, self._period = look, period
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._walk, name="patrol", daemon=True)
        self._thread.start()

    def _walk(self) -> None:
        clock = Clock(self._period)
        while not self._over.wait(self._period):
            if self._look(clock.tick()):
                break

    def end(self) -> None:
        """End the thread, and wait for it unless it is this one."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
