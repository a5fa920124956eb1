"""What was seen of the points of a window, and steps made once more with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.numerics.prediction import Prediction, PredictionType, coefficients, predict
from pint_diffusion.solvers import Propagator
from pint_diffusion.solvers.solver import Past

Slope = Callable[[Level], float | Tensor]
"""d eps / d x at a level, as it is taken to be."""

SLOPES: dict[str, Slope] = {
    "eps": lambda level: 0.0,
    "v": lambda level: level.s,
    "x0": lambda level: 1 / level.s,
}
"""What is frozen while a state moves, and the slope of eps that follows from it."""


class Stage(NamedTuple):
    """One evaluation of a step: of which state, at which level, and what was seen."""

    x: Tensor
    level: Level
    seen: Prediction

    def moved(self, x: Tensor, slope: float | Tensor) -> Prediction:
        """Return what is taken to be seen in another state ``x``.

        eps changes with the slope kappa, and x0 such that x = a x0 + s eps holds:
        eps + kappa dx, x0 + (1 - s kappa) / a dx.
        """
        dx = x - self.x
        a, s = self.level.a, self.level.s
        x0 = self.seen.x0 + ((1 - s * slope) / a if a else 0.0) * dx  # pure noise never moves
        return self.seen._replace(x0=x0, eps=self.seen.eps + slope * dx)


class Tape(NamedTuple):
    """One step as it was evaluated: its stages, and where it led from the state evaluated."""

    stages: tuple[Stage, ...]
    x: Tensor
    past: Past

    def recall(self, slope: Slope) -> Callable[[Tensor, Level], Prediction]:
        """Return a network that goes through the stages once, and says the same of moved states."""
        stages = iter(self.stages)

        def known(x: Tensor, level: Level) -> Prediction:
            stage = next(stages)
            return stage.moved(x, slope(level))

        return known


@dataclass(frozen=True)
class Lane:
    """Samples whose windows begin at one point, s of them, and what was seen of them.

    Attributes
    ----------
    walk : Propagator
        Makes the steps of these samples.
    begin : int
        First point of the windows; its state is final.
    sweeps : int
        Sweeps since the windows begin there, with the one that is due.
    states : list of Tensor, (1 + H + E, s, *shape) each
        Of the points begin, begin + 1, ...: x, the solver's history, and the E tensors that the
        method keeps for itself.
    tapes : list of Tape
        Of the steps from these points.
    """

    walk: Propagator
    begin: int
    sweeps: int
    states: list[Tensor]
    tapes: list[Tape]

    @property
    def steps(self) -> int:
        """N."""
        return self.walk.grid.steps

    def x(self, j: int) -> Tensor:
        """X of slot ``j``, (s, *shape)."""
        return self.states[j][0]

    def past(self, j: int) -> Past:
        """Solver's history in slot ``j``."""
        return tuple(self.states[j][1 : 1 + self.walk.carried_at(self.begin + j)])

    def own(self, j: int) -> Tensor:
        """Return what the method keeps in slot ``j``, (E, s, *shape)."""
        return self.states[j][1 + self.walk.solver.history :]

    def pack(self, x: Tensor, past: Past, own: Iterable[Tensor] = ()) -> Tensor:
        """Make a state of its parts."""
        missing = [torch.zeros_like(x)] * (self.walk.solver.history - len(past))
        return torch.stack([x, *past, *missing, *own])

    def replay(self, j: int, x: Tensor, past: Past, slope: Slope) -> tuple[Tensor, Past]:
        """Make the step of slot ``j`` from a moved state, with what was seen there."""
        return self.walk.replay(self.tapes[j].recall(slope), x, past, self.begin + j)


def record(lane: Lane, j: int, returned: Tensor, kind: PredictionType) -> Tape:
    """Make the step of slot ``j`` again, of what the network returned (Q, s, *shape) for it."""
    stages: list[Stage] = []

    def known(x: Tensor, level: Level) -> Prediction:
        alpha_bar = torch.full((len(x),), level.alpha_bar, dtype=torch.float64, device=x.device)
        stages.append(
            Stage(x, level, predict(kind, x, returned[len(stages)], *coefficients(x, alpha_bar)))
        )
        return stages[-1].seen

    x, past = lane.walk.replay(known, lane.x(j), lane.past(j), lane.begin + j)
    return Tape(tuple(stages), x, past)
