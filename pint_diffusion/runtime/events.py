"""The events of a run: what each rank did, for which slice and iteration, from when to when."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

EVENT_DTYPE = np.dtype(
    [
        ("rank", "i4"),
        ("slice", "i4"),
        ("iteration", "i4"),
        ("kind", "S8"),
        ("start", "f8"),
        ("stop", "f8"),
    ]
)
"""Row of ``/events``. Times are seconds since the ranks' common start.

Kinds: ``fine`` and ``coarse``, a network evaluation made for a fine or a coarse solve; ``shared``,
one made for both; ``wait``, nothing to evaluate (slice and iteration -1); ``send`` and ``recv``,
a boundary state or an end state on its way (the slice and iteration it belongs to). Evaluations
of one batched network call share start and stop.
"""

EVALUATION_KINDS = (b"fine", b"coarse", b"shared")


class Event(NamedTuple):
    """One thing a rank did; fields as in `EVENT_DTYPE`, without the rank."""

    slice: int
    iteration: int
    kind: str
    start: float
    stop: float


class EventLog:
    """The events of one rank, appended by its compute and its communication thread.

    Parameters
    ----------
    rank : int
        The rank that keeps the log.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._rows: list[Event] = []
        self._zero = time.perf_counter()
        self.sent_bytes = 0

    def restart_clock(self) -> None:
        """Call this moment 0; every rank does so right after a barrier."""
        self._zero = time.perf_counter()

    def now(self) -> float:
        """Seconds since the ranks' common start."""
        return time.perf_counter() - self._zero

    def add(self, event: Event) -> None:
        """Append one event; safe from any thread."""
        self._rows.append(event)

    def table(self, first: int = 0) -> NDArray[Any]:
        """Rows from number ``first`` on as an array of `EVENT_DTYPE`."""
        rows = self._rows[first:]
        return np.array([(self.rank, *row) for row in rows], dtype=EVENT_DTYPE)


@dataclass(frozen=True)
class Tally:
    """What one rank did, counted from its events.

    Attributes
    ----------
    evaluations, wasted : int
        Evaluations that the answer needed, and those made in speculation beyond it.
    calls : int
        Network calls.
    evaluating : float
        Seconds in network calls.
    """

    evaluations: int
    wasted: int
    calls: int
    evaluating: float

    @classmethod
    def of(cls, events: EventLog, iterations: int) -> Tally:
        """Count; evaluations that the answer after ``iterations`` did not need are wasted."""
        table = events.table()
        made = table[np.isin(table["kind"], EVALUATION_KINDS)]
        fine = made["kind"] == b"fine"
        needed = np.where(
            fine, made["iteration"] < max(iterations, 1), made["iteration"] <= iterations
        )
        calls = np.unique(made[["start", "stop"]])
        return cls(
            int(needed.sum()),
            int((~needed).sum()),
            len(calls),
            float((calls["stop"] - calls["start"]).sum()),
        )
