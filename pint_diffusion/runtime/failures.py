"""Evaluations that failed: a run fails only if its answer needs one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from pint_diffusion.errors import PeerFailure, PintError
from pint_diffusion.runtime.post import Post
from pint_diffusion.runtime.transports.base import Control


class DroppedError(BaseException):
    """Ends a coroutine that was computing with what a failed evaluation returned."""


class Failures:
    """What failed on this rank, and on rank 0 what the others said of theirs.

    An evaluation that fails may be speculation. It is noted with the first iteration that needs
    it, and its coroutine does not go on, so nothing that needs it will ever be there. Rank 0 knows
    which answer is due next. So a run fails or not by what its answer needs, and never by timing.

    Parameters
    ----------
    post : Post
        Tells rank 0 what failed, and all ranks which failure ends the run.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._needed: dict[int, int] = {}  # rank -> first iteration that needs what failed there
        self._error: PintError | None = None

    def note(self, failed: Sequence[tuple[int, PintError]]) -> None:
        """Take note of failures of this rank: the first iteration that needs each, and why."""
        for needed, error in failed:
            if needed < self._needed.get(self._post.rank, needed + 1):
                self._needed[self._post.rank] = needed
                self._error = error
                if self._post.rank:
                    self._post.tell_first(Control.FAILED, needed)

    def hear(self, rank: int, needed: int) -> None:
        """Take note of what another rank said of its failures; on rank 0."""
        self._needed[rank] = min(needed, self._needed.get(rank, needed))

    def weigh(self, due: int, last: int | None) -> None:
        """See whether the run needs what failed.

        Parameters
        ----------
        due : int
            The iteration whose answer rank 0 waits for.
        last : int or None
            The iteration of the answer, once it is known: what every rank has promised to record
            of it is needed too.

        Raises
        ------
        PintError
            Why it failed, if it failed on this rank.
        PeerFailure
            If it failed on another one.
        """
        if last is not None:
            if self._needed.get(self._post.rank, last + 1) <= last:
                self.end(self._post.rank)
        elif self._post.rank == 0:
            ranks = sorted(rank for rank, needed in self._needed.items() if needed <= due)
            if ranks:
                if ranks[0] != self._post.rank:  # else this one tells, as it does of any error
                    self._post.tell_all(Control.FAILURE, of=ranks[0])
                self.end(ranks[0])

    def end(self, rank: int) -> NoReturn:
        """End the run on this rank, because of what failed on a rank, maybe this one."""
        if rank == self._post.rank and self._error is not None:
            raise self._error
        raise PeerFailure(f"rank {rank} failed")
