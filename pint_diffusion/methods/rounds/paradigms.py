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

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from pint_diffusion.errors import InputError
from pint_diffusion.grid.level import noise_into
from pint_diffusion.methods.method import Method, points
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.engine import picard
from pint_diffusion.methods.rounds.sweep import (
    Copies,
    Seen,
    Swept,
    difference_sweep,
    leading,
)
from pint_diffusion.numerics.sums import mean_square


class ParaDiGMS(Copies):
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


def refuse_history(problem: Problem, **_: Any) -> None:
    """Refuse a multistep solver: what is carried is not a sum of increments."""
    if problem.fine.solver.history:
        raise InputError(
            f"--method paradigms adds up the steps of a one-step solver, and {problem.fine.name} "
            "carries a history: take another solver or method"
        )


PARADIGMS = Method(
    partial(picard, ParaDiGMS),
    options={"window": 32},
    tolerance=0.1,
    unit="of the noise of a DDPM step",
    rounds=True,
    columns=points,
    check=refuse_history,
)
"""The method."""
