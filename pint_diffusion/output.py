"""Outputs: whatever watches a run. Files, progress, pictures, signals, a user's own function.

A run tells each of its outputs what happens and knows nothing of what they do with it. An output
may end the run: by an exception from `Output.check`, or by returning True from `Output.answer`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pint_diffusion.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from pint_diffusion.build.plan import Plan
    from pint_diffusion.methods.problem import Restart
    from pint_diffusion.result import Run
    from pint_diffusion.runtime.events import EventLog
    from pint_diffusion.runtime.world import World

LOG = logging.getLogger(__name__)

Watch: TypeAlias = "Callable[[int, Tensor, NDArray[np.float64] | None], Any]"
"""A user's ``watch(k, answer, change)``, called on rank 0; the run ends here if it returns True."""


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes
    ----------
    status : str
        "finished", "not converged", "interrupted", or "failed: " and the cause.
    run : Run or None
        The result of a run that has an answer.
    agreed : bool
        Whether the ranks can still exchange objects. They can't after a `TransportError`.
    """

    status: str
    run: Run | None = None
    agreed: bool = True


class Output:
    """Watches a run; each of its methods does nothing here.

    Every rank has an output of its own. The run calls all methods but `lost` in the thread that
    computes, so what takes long belongs into another thread. Tensors must not be changed in place.
    """

    def open(self, plan: Plan, world: World, events: EventLog) -> Restart | None:
        """Take note of what is run. Every rank, before the clock starts.

        Returns
        -------
        Restart or None
            The iteration that the run resumes from, if this output knows of one.
        """
        return None

    def state(self, n: int, k: int, state: Tensor | None) -> None:
        """Take column ``n`` of the checkpoint of iteration ``k``. On the rank that keeps it.

        Parameters
        ----------
        n, k : int
            Column and iteration: of Parareal the boundary state u_n^k.
        state : Tensor, shape (1 + H, S, *shape), or None
            The state and what the solver and the method carry with it. None: the same as in
            iteration k - 1.
        """

    def boundary(self, n: int, k: int) -> None:
        """Take note that boundary state u_n^k, n < M, exists. Rank 0."""

    def answer(self, k: int, answer: Tensor, change: NDArray[np.float64] | None) -> bool | None:
        """Take the answer of iteration ``k``. Rank 0.

        Parameters
        ----------
        k : int
            The iteration.
        answer : Tensor, shape (S, *shape)
            The samples as far as they are known.
        change : array, shape (S,), or None
            How far each sample has moved since iteration k - 1, on the scale on which the data
            range is [0, 255]; of a method in rounds the grid points that it has behind it. None at
            iteration 0.

        Returns
        -------
        bool or None
            True ends the run here: it has not converged, and K = k.
        """
        return None

    def wants(self, k: int) -> bool | None:
        """Decide whether every rank's output keeps iteration ``k``. Rank 0, after `answer`.

        Returns
        -------
        bool or None
            What every rank is told by `decided`; None if nobody needs to be told.
        """
        return None

    def decided(self, k: int, wanted: bool) -> None:
        """Take note whether to keep iteration ``k``. Every rank, where `wants` has decided."""

    def check(self) -> None:
        """Raise what ends the run. Every rank, between two network calls.

        Raises
        ------
        Interrupted
            If the run was asked to end: every rank ends.
        PintError
            If this output can't go on: the run has failed.
        """

    def lost(self, cause: str, told_by: int | None) -> None:
        """Say within seconds why the run can't go on. From any thread of any rank.

        Parameters
        ----------
        cause : str
            A rank is lost, or stuck in a network call, or messages can't be moved.
        told_by : int or None
            The one rank that is to say so to the user; None if that is an error of the program.
        """

    def close(self, ended: Ended) -> None:
        """Take note of how the run ended. Every rank."""


class Watcher(Output):
    """Calls a user's function with the answer of each iteration.

    Parameters
    ----------
    watch : callable
        See `Watch`.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def answer(self, k: int, answer: Tensor, change: NDArray[np.float64] | None) -> bool | None:
        """Call the function; only True itself ends the run."""
        return self._watch(k, answer, change) is True


class Answers(Output):
    """Keeps the answer of every iteration in memory, on rank 0.

    Attributes
    ----------
    answers : list of Tensor, each of shape (S, *shape)
        Number k is that of iteration k; None before the iteration that a run resumed from.
    """

    def __init__(self) -> None:
        self.answers: list[Tensor | None] = []

    def answer(self, k: int, answer: Tensor, change: NDArray[np.float64] | None) -> bool | None:
        """Keep it."""
        self.answers += [None] * (k - len(self.answers))
        self.answers.append(answer)
        return None


class Logged(Output):
    """Logs why a run can't go on: a rank that is stuck in a network call can't raise it.

    Parameters
    ----------
    world : World
        The processes of the run.
    """

    def __init__(self, world: World) -> None:
        self._rank = world.rank

    def lost(self, cause: str, told_by: int | None) -> None:
        """Log it, on one rank."""
        if told_by == self._rank:
            LOG.error(cause, extra={"rank": self._rank})


class Outputs(Output):
    """All outputs of a run as one.

    Parameters
    ----------
    outputs : iterable of Output or callable
        A function is called as a `Watch`.

    Raises
    ------
    InputError
        If one is neither.
    """

    def __init__(self, outputs: Iterable[Output | Watch] = ()) -> None:
        self._all = [_output(one) for one in outputs]
        self._open: list[Output] = []
        self._lost = False
        # Those alone that listen: these are called for every state and every network call.
        self._states = self._that("state")
        self._boundaries = self._that("boundary")
        self._checks = self._that("check")

    def _that(self, hook: str) -> list[Callable[..., None]]:
        base = getattr(Output, hook)
        return [getattr(one, hook) for one in self._all if getattr(type(one), hook) is not base]

    def open(self, plan: Plan, world: World, events: EventLog) -> Restart | None:
        """Open each, also after one has failed: another may be in step with those of other ranks.

        Raises
        ------
        Exception
            What the first one raised that failed.
        """
        restart: Restart | None = None
        failed: Exception | None = None
        for one in self._all:
            try:
                found = one.open(plan, world, events)
                self._open.append(one)
                restart = restart or found
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return restart

    def state(self, n: int, k: int, state: Tensor | None) -> None:
        """Tell those that listen."""
        for tell in self._states:
            tell(n, k, state)

    def boundary(self, n: int, k: int) -> None:
        """Tell those that listen."""
        for tell in self._boundaries:
            tell(n, k)

    def answer(self, k: int, answer: Tensor, change: NDArray[np.float64] | None) -> bool:
        """Tell all; return whether one of them ends the run."""
        return any([one.answer(k, answer, change) for one in self._all])

    def wants(self, k: int) -> bool | None:
        """Return whether one of them wants every rank to keep iteration ``k``."""
        wanted = [one.wants(k) for one in self._all]
        said = [want for want in wanted if want is not None]
        return any(said) if said else None

    def decided(self, k: int, wanted: bool) -> None:
        """Tell all."""
        for one in self._all:
            one.decided(k, wanted)

    def check(self) -> None:
        """Ask those that may end the run."""
        for look in self._checks:
            look()

    def lost(self, cause: str, told_by: int | None) -> None:
        """Tell all, once: threads of the transport do so before the run raises it."""
        if not self._lost:
            self._lost = True
            for one in self._all:
                one.lost(cause, told_by)

    def close(self, ended: Ended) -> None:
        """Close each that was opened, also after one has failed.

        Raises
        ------
        Exception
            What the first one raised that failed.
        """
        failed: Exception | None = None
        while self._open:
            try:
                self._open.pop(0).close(ended)
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed


def _output(one: Any) -> Output:
    if isinstance(one, Output):
        return one
    if callable(one) and not isinstance(one, type):
        return Watcher(one)
    raise InputError(
        f"`outputs` has {one!r}, which is neither an Output nor a function watch(k, answer, change)"
    )
