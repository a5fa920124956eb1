"""Notices ranks that have fallen silent: a killed host, a stopped process, a broken network.

Rank 0 and every other rank tell each other once a second that they are alive. Communication threads
do that, so a long network call is no silence, unless it keeps Python's lock.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence

from mpi4py import MPI

from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.requests import Key

PERIOD = 1.0
"""Seconds between signs of life."""

GRACE = 5
"""Seconds that MPI may take to abort the job before the system ends this process."""


class Watchdog:
    """Watches over the ranks that this one hears from: rank 0 over all, the others over rank 0.

    Parameters
    ----------
    rank : int
        This rank.
    hosts : sequence of str
        Host of every rank.
    patience : float
        Seconds of silence that are allowed, or twice the longest network call of a rank.
    events : EventLog
        Knows this rank's network calls.
    on_silence : callable
        Is told who fell silent, before the job is ended.
    """

    def __init__(
        self,
        rank: int,
        hosts: Sequence[str],
        patience: float,
        events: EventLog,
        on_silence: Callable[[str], None],
    ) -> None:
        self._hosts = hosts
        self._patience = patience
        self._events = events
        self._on_silence = on_silence
        peers = range(1, len(hosts)) if rank == 0 else [0]
        now = time.monotonic()
        self._heard = dict.fromkeys(peers, now)
        self._allowed = dict.fromkeys(peers, patience)
        self._place: dict[int, Key] = {}
        self._next = now

    def due(self) -> list[int]:
        """Return the ranks that should be told now that this one is alive."""
        now = time.monotonic()
        if now < self._next:
            return []
        self._next = now + PERIOD
        return list(self._heard)

    def longest_call(self) -> tuple[int, int]:
        """Return the longest network call of this rank, in seconds and milliseconds."""
        return divmod(round(1000 * self._events.longest), 1000)

    def heard(self, peer: int, key: Key) -> None:
        """Note that a message has come from a rank."""
        if peer not in self._heard:
            return
        self._heard[peer] = time.monotonic()
        if key.cells >= 0:
            self._place[peer] = key
        else:
            longest = key.n + key.k / 1000
            self._allowed[peer] = max(self._allowed[peer], 2 * longest)

    def look(self, comm: MPI.Comm) -> None:
        """End the job if a rank has been silent for too long."""
        now = time.monotonic()
        for peer, heard in self._heard.items():
            if now - heard > self._allowed[peer]:
                self._end(comm, peer, now - heard)

    def _end(self, comm: MPI.Comm, peer: int, silence: float) -> None:
        key = self._place.get(peer)
        place = f", last at slice {key.n}, iteration {key.k}" if key else ""
        cause = f"rank {peer} on {self._hosts[peer]} has been silent for {silence:.0f} s{place}"
        print(f"pint-diffusion: error: {cause}; the job is ended", file=sys.stderr, flush=True)
        self._on_silence(cause)
        signal.alarm(GRACE)  # not by a thread: Abort keeps Python's lock
        comm.Abort(1)
