"""The network call that is under way on this rank, and how long calls take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

LEAST = 60.0
"""Seconds that a call may always take, if nobody says otherwise."""

FACTOR = 30.0
"""A call may take this many times as long as the longest one seen."""

FIRST = 600.0
"""Seconds that the first call of a rank may take: it may compile kernels, and wait for a disk."""


class Call(NamedTuple):
    """A network call.

    Attributes
    ----------
    rows : int
        Number of states.
    place : callable
        Tells where in the run it is, in words.
    begun : float
        Moment, in seconds.
    """

    rows: int
    place: Callable[[], str]
    begun: float


class Pace:
    """The network calls of a rank. The thread that computes writes, and those that watch read.

    Attributes
    ----------
    open : Call or None
        The call under way.
    newest : Call or None
        That one, or else the last one.
    longest : float
        Seconds of the longest call of this rank.
    elsewhere : float
        Seconds of the longest call of any other rank, as far as is known here.
    """

    def __init__(self) -> None:
        self.open: Call | None = None
        self.newest: Call | None = None
        self.longest = 0.0
        self.elsewhere = 0.0
        self._slowest = 0.0  # seconds for a row

    def begin(self, rows: int, place: Callable[[], str]) -> None:
        """Note that a call begins."""
        self.open = self.newest = Call(rows, place, time.perf_counter())

    def end(self) -> None:
        """Note that it has ended."""
        call, self.open = self.open, None
        assert call is not None
        seconds = time.perf_counter() - call.begun
        self.longest = max(self.longest, seconds)
        self._slowest = max(self._slowest, seconds / call.rows)

    def allowed(self, rows: int) -> float:
        """Return the seconds that a call of so many rows may take, if nobody says otherwise.

        That is generous: `FACTOR` times as long as the longest call seen on any rank, or as so many
        rows took here, and `LEAST` at least; `FIRST` at least for the first call of a rank.
        """
        least = LEAST if self.longest else FIRST
        return max(least, FACTOR * max(self.longest, self.elsewhere, self._slowest * rows))
