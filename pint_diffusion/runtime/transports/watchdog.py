"""Notices ranks that have fallen silent: a killed host, a stopped process, a broken network.

Rank 0 and every other rank tell each other once a second that they are alive. Communication threads
do that, so a long network call is no silence, unless it keeps Python's lock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.requests import Key
from pint_diffusion.runtime.transports.base import Control

PERIOD = 1.0
"""Most seconds between two signs of life."""


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
    """

    def __init__(self, rank: int, hosts: Sequence[str], patience: float, events: EventLog) -> None:
        self._hosts = hosts
        self._patience = patience
        self._period = min(PERIOD, patience / 4)
        self._events = events
        peers = range(1, len(hosts)) if rank == 0 else [0]
        now = time.monotonic()
        self._heard = dict.fromkeys(peers, now)
        self._allowed = dict.fromkeys(peers, patience)
        self._place: dict[int, Key] = {}
        self._next = now

    @property
    def peers(self) -> list[int]:
        """Ranks that this one hears from, and tells that it is alive."""
        return list(self._heard)

    def is_time(self) -> bool:
        """Tell whether a period has passed: then ask who is `silent`, and tell the peers."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._period
        return True

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
        elif key.cells == Control.ALIVE:
            longest = key.n + key.k / 1000
            self._allowed[peer] = max(self._allowed[peer], 2 * longest)

    def silent(self) -> str | None:
        """Name a rank that has been silent for too long, in a sentence; None if there is none."""
        now = time.monotonic()
        for peer, heard in self._heard.items():
            if now - heard > self._allowed[peer]:
                key = self._place.get(peer)
                place = f", last at slice {key.n}, iteration {key.k}" if key else ""
                host = self._hosts[peer]
                return f"rank {peer} on {host} has been silent for {now - heard:.0f} s{place}"
        return None
