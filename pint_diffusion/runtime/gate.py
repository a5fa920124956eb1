"""Where ranks wait for one another while they prepare a run, and give up on one that never comes.

Each rank prepares by itself: it reads files and loads a network. A rank that is stuck there can't
say so. So every rank tells rank 0 that it has come, and rank 0 tells those that wait that it is
there, and in the end that all are, or which is not.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from pint_diffusion.errors import TransportError
from pint_diffusion.runtime.limits import Clock, Patrol, Seconds

if TYPE_CHECKING:
    from mpi4py import MPI

    from pint_diffusion.runtime.limits import OnLost

FIRST = 1800.0
"""Seconds in which some rank must be ready, if nobody says otherwise."""

LEAST, FACTOR = 300.0, 10.0
"""Then the others must be so in these seconds, or in so many times what the slowest one took."""

PERIOD = 1.0
"""Seconds after which rank 0 says again that it is there."""

HASTE, PAUSE = 1e-4, 2e-3
"""Seconds between two looks, at first and then."""

GRACE = 2.0
"""Seconds that a rank has to say itself that it is stuck, before another one says it."""

SILENCE = 30.0
"""Seconds after which rank 0 is taken for lost if it has come and says nothing more."""

CAME, THERE, ALL, LOST = 1, 2, 3, 4
"""Tags: of a rank that has come; of rank 0 that it has, that all have, or why they can't go on."""


class Gate:
    """Meetings of the ranks of a run that is prepared.

    Parameters
    ----------
    rank : int
        This rank.
    hosts : sequence of str
        Host of every rank.
    limit : float, "auto" or None
        Seconds that a rank may take from one meeting to the next; ``auto``: see `allowed`.
    on_lost : callable
        Is told by a thread when this rank takes longer.
    comm : MPI.Comm, optional
        Of these meetings alone, if there are several ranks.
    """

    def __init__(
        self,
        rank: int,
        hosts: Sequence[str],
        limit: Seconds,
        on_lost: OnLost,
        comm: MPI.Comm | None = None,
    ) -> None:
        self._rank, self._hosts, self._limit, self._comm = rank, hosts, limit, comm
        self._on_lost = on_lost
        self._sent: list[MPI.Request] = []
        self._busy: float | None = 0.0  # seconds since the last meeting; None in a meeting
        period = PERIOD if limit in ("auto", None) else min(PERIOD, float(limit) / 4)
        self._patrol = Patrol(self._look, period) if limit is not None else None

    def _look(self, passed: float) -> bool:
        """See whether this rank takes too long."""
        if self._busy is None:
            return False
        self._busy += passed
        late = self._busy > allowed(self._limit, ())
        if late:
            cause = not_ready(self._who([self._rank]), allowed(self._limit, ()))
            self._on_lost(cause, self._rank)
        return late

    def _who(self, ranks: Sequence[int]) -> list[str]:
        return [f"rank {rank} on {self._hosts[rank]}" for rank in ranks]

    def meet(self) -> None:
        """Wait for every rank, sleeping.

        Raises
        ------
        TransportError
            If one does not come.
        """
        busy, self._busy = self._busy or 0.0, None
        if self._comm is not None:
            if self._rank:
                self._follow(self._comm, busy)
            else:
                self._lead(self._comm, busy)
        self._busy = 0.0

    def _lead(self, comm: MPI.Comm, busy: float) -> None:
        """Wait for the others, and tell them how it ends."""
        took, said, clock, pause = {0: busy}, -PERIOD, Clock(PAUSE), HASTE
        while len(took) < comm.size:
            missing = [rank for rank in range(comm.size) if rank not in took]
            for rank in missing:
                if (message := comm.improbe(rank, CAME)) is not None:
                    took[rank] = message.recv()
            seconds = allowed(self._limit, took.values())
            missing = [rank for rank in missing if rank not in took]
            if missing and busy + clock.now > seconds + GRACE:
                cause = not_ready(self._who(missing), seconds)
                self._tell(comm, took, cause, LOST)
                raise TransportError(cause, told_by=0)
            if clock.now - said >= PERIOD:
                said = clock.now
                self._tell(comm, took, None, THERE)
            time.sleep(pause)
            pause = min(2 * pause, PAUSE)
            clock.tick()
        self._tell(comm, took, None, ALL)

    def _follow(self, comm: MPI.Comm, busy: float) -> None:
        """Tell rank 0 that this one has come, and wait for what it says."""
        from mpi4py import MPI

        self._sent.append(comm.isend(busy, 0, CAME))
        clock, pause, status = Clock(PAUSE), HASTE, MPI.Status()
        seconds = allowed(self._limit, [busy])
        last = seconds + 2 * GRACE - busy
        while True:
            while (message := comm.improbe(0, MPI.ANY_TAG, status)) is not None:
                cause, tag = message.recv(), status.tag
                if tag == ALL:
                    return
                if tag == LOST:
                    raise TransportError(cause, told_by=0)
                last = clock.now + SILENCE
            if clock.now > last:
                told_by = next_speaker(self._hosts)
                raise TransportError(not_ready(self._who([0]), seconds), told_by)
            time.sleep(pause)
            pause = min(2 * pause, PAUSE)
            clock.tick()

    def _tell(self, comm: MPI.Comm, ranks: Collection[int], word: Any, tag: int) -> None:
        self._sent = [request for request in self._sent if not request.test()[0]]
        self._sent += [comm.isend(word, rank, tag) for rank in ranks if rank]

    def close(self, well: bool) -> None:
        """End the meetings; after one that has failed a message may still be under way.

        Parameters
        ----------
        well : bool
            Whether none has failed.
        """
        if self._patrol is not None:
            self._patrol.end()
        if self._comm is not None and well:
            for request in self._sent:
                request.wait()
            self._comm.Free()


def allowed(limit: Seconds, took: Collection[float]) -> float:
    """Return the seconds that a rank may take to be ready.

    Parameters
    ----------
    limit : float, "auto" or None
        What was said; ``auto``: `FIRST`, and once some are ready `LEAST` or `FACTOR` times what the
        slowest of them took.
    took : collection of float
        Seconds that those took that are ready.
    """
    if limit is None:
        return float("inf")
    if limit != "auto":
        return limit
    return max(LEAST, FACTOR * max(took)) if took else FIRST


def not_ready(ranks: Sequence[str], seconds: float) -> str:
    """Return the sentence about ranks that take too long."""
    verb = "is" if len(ranks) == 1 else "are"
    return (
        f"{', '.join(ranks)} {verb} not ready after {seconds:.3g} s of loading: raise "
        "`load_limit` if that may take longer"
    )


def next_speaker(hosts: Sequence[str]) -> int:
    """Return the rank that speaks if rank 0 can't: the first on another host, or else rank 1."""
    return next((rank for rank, host in enumerate(hosts) if host != hosts[0]), 1)
