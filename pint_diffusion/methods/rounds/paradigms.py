"""ParaDiGMS: a sliding window of Picard iterations (Shih et al. 2023, arXiv 2305.16317).

With Phi_j the step from point j, and X the states that were evaluated,

    Xnew_{j+1} = Phi_j(X_j) + (Xnew_j - X_j),

which is the published sum of increments Phi_j(X_j) - X_j, in an order in which a window of one
point is the sequential sampler to the bit. A window slides over the points that moved by no more
than tolerance^2 var in mean square, var that of the noise that DDPM adds in the step to the point,
and over one more, which is a step from a state that did not move. What comes new begins as a copy
of the last state.

Other than published: every sample has a window of its own, and the authors' code takes var of the
step from the point.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import numpy as np
from pydantic import Field

from pint_diffusion.grid.level import noise_into
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.method import MethodWithWindow, refuse_history
from pint_diffusion.methods.rounds.sweep import (
    Copies,
    Seen,
    Sweep,
    Swept,
    difference_sweep,
    leading,
)
from pint_diffusion.numerics.sums import mean_square


class Increments(Copies):
    """The sweep.

    Parameters
    ----------
    problem : Problem
        Its tolerance is that of the published rule.
    window : int
        Most points p of a window.
    """

    def __init__(self, problem: Problem, *, window: int) -> None:
        self.window = window
        noises = [noise_into(*levels) for levels in pairwise(problem.grid.levels)]
        self.limits = np.array([0.0, *((problem.tolerance * noise) ** 2 for noise in noises[:-1])])

    def reach(self, begin: int, evaluated: int) -> int:
        """Return the end of a window."""
        return begin + self.window

    def __call__(self, seen: Seen) -> Swept:
        """Sweep; see `Sweep`."""
        states, moves = difference_sweep(seen, None)
        limits = seen.tables.put("limits", lambda: self.limits)[seen.points]
        return Swept(states, moves[:0], leading(mean_square(moves[0], 2) <= limits))


class ParaDiGMS(MethodWithWindow):
    """ParaDiGMS: a sliding window of Picard iterations."""

    name: ClassVar[str] = "paradigms"
    unit: ClassVar[str] = "of the noise of a DDPM step"

    tolerance: float = Field(
        0.1,
        ge=0,
        le=1e100,
        allow_inf_nan=False,
        description="how far a point may move in a round and still be done, root mean square, in "
        "the noise that DDPM adds in the step to it; with 0 the answer is exact",
    )

    def check(self, problem: Problem) -> None:
        """Refuse a multistep solver: what is carried is not a sum of increments."""
        refuse_history(self, problem, "adds up the steps of a one-step solver")

    def sweep(self, problem: Problem) -> Sweep:
        """Make the sweep."""
        return Increments(problem, window=self.window)
