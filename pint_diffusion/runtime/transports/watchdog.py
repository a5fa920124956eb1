"""Notices what does not go on: a killed host, a stopped process, a call that never returns.

Rank 0 and every other rank tell each other once a second that they are alive, in which network call
they are, and how long calls take. Communication threads do that, so a long network call is no
silence, unless it keeps Python's lock. A rank looks at its own call itself.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence

from torch import Tensor

from pint_diffusion.runtime.gate import next_speaker
from pint_diffusion.runtime.limits import Clock, Limits, Overdue, rising
from pint_diffusion.runtime.pace import Pace
from pint_diffusion.runtime.requests import Key
from pint_diffusion.runtime.transports.base import Control, text_of

PERIOD = 1.0
"""Most seconds between two signs of life."""

SIGN = struct.Struct("=dd")
"""Seconds of the longest call of the sender, and of any rank that it knows of."""


class Watchdog:
    """Watches over the ranks that this one hears from: rank 0 over all, the others over rank 0.

    Parameters
    ----------
    rank : int
        This rank.
    hosts : sequence of str
        Host of every rank.
    limits : Limits
        For how long.
    pace : Pace
        Knows this rank's network calls.
    """

    def __init__(self, rank: int, hosts: Sequence[str], limits: Limits, pace: Pace) -> None:
        self._rank, self._hosts, self._pace = rank, hosts, pace
        self._silence, call = limits.silence, limits.call
        who = f"rank {rank} on {hosts[rank]}"
        self._overdue = None if call is None else Overdue(pace, call, who)
        periods = [PERIOD if self._silence is None else self._silence / 4]
        periods += [self._overdue.period] if self._overdue else []
        self._periods = rising(min(PERIOD, *periods))
        self._clock = Clock(min(PERIOD, *periods))
        self._next = 0.0
        self._passed = 0.0
        peers = range(1, len(hosts)) if rank == 0 else [0]
        self._heard = dict.fromkeys(peers, 0.0)
        self._allowed = dict.fromkeys(peers, self._silence or 0.0)
        self._place: dict[int, str] = {}

    @property
    def peers(self) -> list[int]:
        """Ranks that this one hears from, and tells that it is alive."""
        return list(self._heard)

    def is_time(self) -> bool:
        """Tell whether a period has passed: then `look`, and give the peers a `sign`."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + next(self._periods)
        self._passed = self._clock.tick()
        return True

    def sign(self) -> bytes:
        """Return what this rank says of itself."""
        pace = self._pace
        place = pace.newest.place() if pace.newest else ""
        return SIGN.pack(pace.longest, max(pace.longest, pace.elsewhere)) + place.encode()

    def heard(self, peer: int, key: Key, data: Tensor | None = None) -> None:
        """Note that a message has come from a rank, maybe a sign of life."""
        if peer not in self._heard:
            return
        self._heard[peer] = self._clock.now
        if key.cells == Control.ALIVE:
            sign = text_of(data)
            longest, anywhere = SIGN.unpack_from(sign)
            self._pace.elsewhere = max(self._pace.elsewhere, anywhere)
            self._allowed[peer] = max(self._allowed[peer], 2 * longest)
            self._place[peer] = sign[SIGN.size :].decode() or self._place.get(peer, "")
        elif key.cells >= 0:
            self._place.setdefault(peer, f"slice {key.n}, iteration {key.k}")

    def look(self) -> tuple[str, int] | None:
        """Return why the run can't go on, in a sentence, and the rank that is to say so.

        That is rank 0, which says it in the master file too, unless rank 0 is silent.
        """
        if self._overdue is not None and (cause := self._overdue.look(self._passed)) is not None:
            return cause, 0
        if self._silence is None:
            return None
        for peer, heard in self._heard.items():
            silent = self._clock.now - heard
            if silent > self._allowed[peer]:
                place = f", last at {self._place[peer]}" if self._place.get(peer) else ""
                host = self._hosts[peer]
                cause = f"rank {peer} on {host} has been silent for {silent:.0f} s{place}"
                return cause, next_speaker(self._hosts) if peer == 0 else 0
        return None
