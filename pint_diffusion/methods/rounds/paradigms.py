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

import torch
from pydantic import Field
from torch import Tensor

from pint_diffusion.grid.level import noise_into
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.engine import Sweep
from pint_diffusion.methods.rounds.method import MethodWithWindow, refuse_history
from pint_diffusion.methods.rounds.tape import Lane


class Increments:
    """The sweep.

    Parameters
    ----------
    problem : Problem
        Its tolerance is that of the published rule.
    window : int
        Most points p of a window.
    """

    own = 0

    def __init__(self, problem: Problem, *, window: int) -> None:
        self.window = window
        noises = [noise_into(*levels) for levels in pairwise(problem.grid.levels)]
        self.limits = [0.0, *((problem.tolerance * noise) ** 2 for noise in noises)]

    def stop(self, begin: int) -> int:
        """Return the end of a window."""
        return begin + self.window

    def start(self, lane: Lane) -> list[Tensor]:
        """Return copies of the noise."""
        return lane.states * min(self.window, lane.steps)

    def __call__(self, lane: Lane) -> tuple[list[Tensor], list[int]]:
        """Sweep; see `Sweep`."""
        states = [lane.states[0]]
        open_ = torch.ones(states[0].shape[1], dtype=torch.bool, device=states[0].device)
        done = torch.ones(len(open_), dtype=torch.long, device=open_.device)
        for j, tape in enumerate(lane.tapes):
            states.append((tape.x + (states[-1][0] - lane.x(j)))[None])
            if j + 1 < len(lane.states):
                moved = states[-1][0] - lane.x(j + 1)
                error = moved.double().flatten(1).square().mean(dim=1)
                open_ &= error <= self.limits[lane.begin + j + 1]
                done += open_
        more = min(int(done.max()) - 1, lane.steps - lane.begin - len(lane.tapes))
        return states + states[-1:] * more, done.tolist()


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
