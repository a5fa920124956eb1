"""What a method is given to solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.grid import TimeGrid
from pint_diffusion.numerics.convergence import Outcome, StopRule
from pint_diffusion.numerics.prediction import PredictionType
from pint_diffusion.runtime.requests import Layout
from pint_diffusion.solvers import Propagator


@dataclass(frozen=True)
class Restart:
    """Iteration k of a run that is gone on with.

    Attributes
    ----------
    k : int
        The iteration.
    state : callable
        n -> what was kept of iteration k in column n: of Parareal u_n^k, (1 + H, S, *shape),
        n >= k.
    changes : list of array, each of shape (S,)
        What was told of iterations 1 .. k: the change of the last boundary state, or of methods
        in rounds the points that each sample had behind it.
    """

    k: int
    state: Callable[[int], Tensor]
    changes: list[NDArray[np.float64]]


@dataclass(frozen=True)
class Problem:
    """A sampling problem and how it is spread over ranks.

    Attributes
    ----------
    noise : Tensor, shape (S, *shape)
        x of u_0, the same on every rank.
    fine : Propagator
        F, N steps in M slices.
    coarse : Propagator
        G, fewer steps in the same slices; a one-step solver.
    coarse_network : int
        Which network G evaluates, 0 for F's own.
    max_iterations : int
        Most iterations K, at most M.
    stop_rule : StopRule
        When to stop before that.
    ranks : int
        Number of ranks.
    tolerance : float
        What the user or the method says; `stop_rule` has it too.
    columns : int
        Tensors of the checkpoint of an iteration.
    kind : PredictionType
        What the fine network returns, see `predict`.
    output_shape : tuple of int
        Shape of what it returns for one sample.
    guess : sequence of Tensor, optional
        States (S, *shape) of points 0 .. N on which a method that can do so begins.
    restart : Restart, optional
        Where to go on from; from the noise if there is none.
    """

    noise: Tensor
    fine: Propagator
    coarse: Propagator
    coarse_network: int
    max_iterations: int
    stop_rule: StopRule
    ranks: int
    tolerance: float
    columns: int
    kind: PredictionType
    output_shape: tuple[int, ...]
    guess: Sequence[Tensor] | None = None
    restart: Restart | None = None

    @property
    def grid(self) -> TimeGrid:
        """The N fine steps in M slices."""
        return self.fine.grid

    @property
    def half_range(self) -> float:
        """Half the range of clean data, which errors of states may be compared with."""
        low, high = self.stop_rule.data_range
        return (high - low) / 2

    @property
    def evaluates_alike(self) -> bool:
        """Whether the only evaluation of G over a slice is also the first one of F."""
        coarse = self.coarse
        one_step = coarse.grid.steps == coarse.grid.slices and coarse.solver.evaluations == 1
        begins_alike = coarse.solver.starts_here and self.fine.solver.starts_here
        return one_step and begins_alike and self.coarse_network == 0

    def outcome(
        self, changes: Sequence[NDArray[np.float64]], last: bool, exact: bool
    ) -> Outcome | None:
        """Return how the run ends after as many iterations as there are changes, if it ends.

        Parameters
        ----------
        changes : sequence of array, each of shape (S,)
            Changes of the answer at iterations 1, 2, ...
        last : bool
            No more iterations are to be made.
        exact : bool
            The answer is exact by construction.
        """
        return self.stop_rule.outcome(changes, last, exact, len(self.noise))

    def owner(self, n: int) -> int:
        """Rank of slice ``n``; the last boundary state, n = M, belongs to rank 0.

        Slices are dealt out in turn, so that a rank with several has early and late ones: the
        wavefront starts at slice 0, and slices retire from there.
        """
        return n % self.ranks if n < self.grid.slices else 0

    @property
    def state(self) -> Layout:
        """Layout of a boundary state: x, and what the fine solver carries."""
        shape = (1 + self.fine.history, *self.noise.shape)
        return Layout(shape, self.noise.dtype, self.noise.device)
