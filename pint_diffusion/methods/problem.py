"""A sampling problem, and the iteration at which a resumed run begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.grid import TimeGrid
from pint_diffusion.numerics.convergence import Outcome, StopRule
from pint_diffusion.numerics.prediction import Prediction, PredictionType, predict
from pint_diffusion.runtime.requests import Layout
from pint_diffusion.solvers import Propagator
from pint_diffusion.solvers.response import Responses

Remake: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Slot, state (1 + H, S, *shape), move of x (S, *shape), slopes (S,) -> state after the step."""


@dataclass(frozen=True)
class Restart:
    """Iteration k, at which a resumed run begins.

    Attributes
    ----------
    k : int
        The iteration.
    state : callable
        n -> tensors of column n of the checkpoint; of Parareal u_n^k, (1 + H, S, *shape), n >= k.
    changes : list of array, each of shape (S,)
        Measures of iterations 1 .. k: the change of the last boundary state in 1/255 of the data
        range, or of methods in rounds the points that each sample has behind it.
    """

    k: int
    state: Callable[[int], Tensor]
    changes: list[NDArray[np.float64]]


@dataclass(frozen=True)
class Problem:
    """A sampling problem and its distribution over ranks.

    Attributes
    ----------
    noise : Tensor, shape (S, *shape)
        x of u_0, the same on every rank.
    fine : Propagator
        Fine solver F: N steps in M slices.
    coarse : Propagator
        Coarse solver G: fewer steps in the same slices, with a one-step solver.
    coarse_network : int
        Number of the network that G evaluates, 0 for F's own.
    max_iterations : int
        Most iterations K, at most as many as make the answer exact.
    stop_rule : StopRule
        Rule that ends the run before that.
    ranks : int
        Number R of ranks.
    tolerance : float
        Tolerance in the unit of the method; ``stop_rule`` has it too.
    columns : int
        Number of columns in the checkpoint of an iteration.
    kind : PredictionType
        Form of the fine network's output, see `predict`.
    output_shape : tuple of int
        Shape of that output for one sample.
    guess : sequence of Tensor, each of shape (S, *shape), optional
        First guess of the states at points 0 .. N, for a method that takes one.
    restart : Restart, optional
        Iteration at which a resumed run begins; if not given, the run begins with the noise.
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

    together: ClassVar[bool] = False
    """Windows of all samples slide together."""

    def responses(self) -> Responses:
        """Return what the fine steps make of a state that moves."""
        return Responses.of(self.fine)

    def seen(self, x: Tensor, output: Tensor, a: Tensor, s: Tensor) -> Prediction:
        """Return what the fine network has seen in states x (n, *shape), of what it returned.

        Parameters
        ----------
        x, output : Tensor, shape (n, ...)
            The states, and what the evaluator has given as output.
        a, s : Tensor, shape (n, 1, ...)
            Signal and noise coefficients.
        """
        return predict(self.kind, x, output, a, s)

    def remake(self, points: Sequence[int], outputs: Tensor) -> Remake | None:
        """Return what makes steps of a round again, if these are not linear; see `Seen`.

        Parameters
        ----------
        points : sequence of int
            Grid point of every slot.
        outputs : Tensor, shape (L, S, ...)
            What the evaluator has given as output in every slot.
        """
        return None

    def shown(self, state: Tensor) -> Tensor:
        """Return the answer that the last boundary state (1 + H, S, *shape) stands for."""
        return state[0]

    @property
    def grid(self) -> TimeGrid:
        """The N fine steps in M slices."""
        return self.fine.grid

    @property
    def half_range(self) -> float:
        """Half the range of clean data: the unit of the tolerance of some methods."""
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
        """Return how the run ends at its latest iteration, or None if it goes on.

        Parameters
        ----------
        changes : sequence of array, each of shape (S,)
            Changes of the answer at iterations 1, 2, ...
        last : bool
            The run makes no more iterations.
        exact : bool
            The answer is exact by construction.
        """
        return self.stop_rule.outcome(changes, last, exact, len(self.noise))

    def owner(self, n: int) -> int:
        """Return the rank of slice ``n``; the last boundary state, n = M, belongs to rank 0.

        The ranks take slices in turn, so a rank with several has early and late ones. The wavefront
        starts at slice 0, and slices retire from there.
        """
        return n % self.ranks if n < self.grid.slices else 0

    @property
    def state(self) -> Layout:
        """Layout of a boundary state: x, and the history that the fine solver carries."""
        shape = (1 + self.fine.history, *self.noise.shape)
        return Layout(shape, self.noise.dtype, self.noise.device)
