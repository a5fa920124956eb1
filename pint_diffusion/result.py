"""The result of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.numerics.convergence import Outcome


@dataclass(frozen=True, repr=False)
class Run:
    """The result of a run: the same on every rank, but for the tensors and the events.

    Attributes
    ----------
    samples : Tensor, shape (S, *shape), or None
        The answer, on rank 0.
    outcome : Outcome
        Iterations and convergence.
    evaluations, evaluations_wasted : int
        Network evaluations of all ranks that the answer needed, and those beyond it.
    evaluations_deep, calls_deep : int
        Longest chain behind the answer, in evaluations and in network calls.
    network_calls : int
        Network calls of all ranks.
    evaluation_time : float
        Mean seconds of a network call.
    wall_time : float
        Seconds from the ranks' common start to the answer.
    start_up_time : float
        Seconds from the start of a rank's process to that common start, the most of any rank.
    events : array of `EVENT_DTYPE`
        What this rank did when.
    sent_bytes : int
        What this rank sent to others.
    iterates : sequence of Tensor, each of shape (S, *shape)
        The answers of iterations 0 .. K on rank 0, where they were kept.
    sequential : Tensor, shape (S, *shape), or None
        The sequential sampler's answer on rank 0, where it was asked for.
    sequential_wall_time : float or None
        Its seconds.
    """

    samples: Tensor | None
    outcome: Outcome
    evaluations: int
    evaluations_wasted: int
    evaluations_deep: int
    calls_deep: int
    network_calls: int
    evaluation_time: float
    wall_time: float
    start_up_time: float
    events: NDArray[Any]
    sent_bytes: int
    iterates: Sequence[Tensor | None] = ()
    sequential: Tensor | None = None
    sequential_wall_time: float | None = None

    @property
    def iterations(self) -> int:
        """Iterations K, or rounds."""
        return self.outcome.iterations

    @property
    def converged(self) -> bool:
        """Whether every sample met the tolerance, or the answer is exact."""
        return self.outcome.converged

    @property
    def stopped_at(self) -> NDArray[np.int32]:
        """Iteration at which each sample met the tolerance, 0 where none did, (S,)."""
        return self.outcome.stopped_at

    @property
    def change(self) -> NDArray[np.float64]:
        """What was said of each iteration and sample, (K, S), see `Output.answer`."""
        return self.outcome.changes

    def __repr__(self) -> str:
        shape = "" if self.samples is None else f"samples {tuple(self.samples.shape)}, "
        end = "converged" if self.converged else "not converged"
        return (
            f"<Run: {shape}{self.iterations} iterations, {end}, {self.evaluations} evaluations, "
            f"{self.evaluations_deep} in a row, {self.wall_time:.3g} s>"
        )
