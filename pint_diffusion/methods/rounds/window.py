"""The window method: Picard sweeps with a secant slope, and a predictor ahead of them.

Like ParaDiGMS it evaluates a window of points at once and slides over those that have settled.
With x_i the state that was evaluated at point i, eps_i what the network said of it, and x_i',
eps_i' the same of the round before, a sweep steps from the new state x with

    eps = eps_i + kappa_i (x - x_i),  kappa_i = <x_i - x_i', eps_i - eps_i'> / |x_i - x_i'|^2,

the slope along which eps has just been seen to change, for each sample. It is kept between 0, which
freezes eps, and 1 / s, which freezes x0. For Gaussian data of variance v along the move a perfect
network has kappa = s / (s^2 + a^2 v), with one v all along the walk. So a point that is evaluated
for the first time takes the v of the nearest earlier point, and v = 1, which freezes
v-prediction, if there is none.

Beyond the points evaluated, eps is on the straight line through its last values, in the clock
s / (a + s). So what comes new in a window is predicted, not copied.

A step has settled when no state that its network was asked for is further, root mean square, than
`SHARE` of the tolerance from the state evaluated, in units of half the data range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.method import MethodWithWindow
from pint_diffusion.methods.rounds.sweep import (
    Seen,
    Sweep,
    Swept,
    bare,
    difference_sweep,
    leading,
)
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.numerics.sums import folded, mean_square
from pint_diffusion.solvers import Propagator
from pint_diffusion.solvers.linear import BlindNetwork
from pint_diffusion.solvers.response import Responses, at_slopes

SHARE = 0.25
"""Of the tolerance, that a state may move by in a step that has settled: see docs/window.md."""

STRETCH = 25
"""The line is through the last N / 25 points of a window, at least two."""

LEAST = 1e-6
"""1 - s kappa is kept between this and 1 less this."""


class Secant:
    """The sweep.

    Parameters
    ----------
    problem : Problem
        Its tolerance is about the error of the answer, in half the data range.
    window : int
        Most points of a window.
    """

    extra_tensors = 2  # state and eps of the last evaluation, NaN before there is one
    predicts = True

    def __init__(self, problem: Problem, *, window: int) -> None:
        self.window = window
        self.exact = problem.tolerance == 0
        self.settled = SHARE * problem.tolerance * problem.half_range
        self.fitted = max(2, problem.grid.steps // STRETCH)

    def reach(self, begin: int, evaluated: int) -> int:
        """Return the end of a window."""
        return begin + self.window

    def start(self, walk: Propagator, noise: Tensor, count: int) -> Tensor:
        """Return states on the straight way to x0 = 0."""
        state = bare(walk, noise)
        return torch.stack([state, *walked(walk, BlindNetwork(), state, range(count - 1))], dim=1)

    def slide(self, begin: int, settled: int) -> int:
        """Return the number of points that have settled."""
        return settled

    def __call__(self, seen: Seen) -> Swept:
        """Sweep; see `Sweep`."""
        levels = seen.tables.put("window", lambda: columns(seen.tables.responses))[seen.points]
        evaluated = torch.stack([seen.asked, seen.eps])
        kappa = slopes(spreads(evaluated, seen.states[seen.parts :], levels[:, :, 0]), levels)
        response = at_slopes(seen.tables.moves[seen.points], kappa)
        asked, response = response.split([kappa.shape[-1], seen.parts], dim=2)
        states, moves = difference_sweep(seen, response, kappa[:, :, 0])
        settled = leading(self._settled(seen, asked, moves))
        return Swept(states, evaluated, settled, (asked[:, :, 0], kappa[:, :, :1], moves))

    def _settled(self, seen: Seen, asked: Tensor, moves: Tensor) -> Tensor:
        """Return which steps have settled, (L, S).

        With tolerance 0 nothing of a state may have moved, also of what the solver carries; else
        nothing that the network was asked for.
        """
        if self.exact:
            return (mean_square(moves, 3) == 0).all(dim=0)
        parts = seen.tables.responses.asked_parts
        far = mean_square(moves[:parts], 3).permute(1, 2, 0)[:, :, None]
        # Of P moves that add up the square is at most P times the sum of squares.
        moved = folded(asked[..., :parts].square() * far, 3).amax(dim=2)
        return moved <= self.settled**2 / parts

    def ahead(self, seen: Seen, swept: Swept, points: range, open_: Tensor | None) -> list[Tensor]:
        """Predict states by steps with eps on a line; see `Sweep`."""
        asked, kappa, moves = swept.more
        count = min(self.fitted, seen.slots)
        last = slice(seen.slots - count, seen.slots)
        # By how much eps has moved with the state that the network was asked for.
        turn = (asked[last] * kappa[last]).permute(2, 0, 1)
        eps = seen.eps[last] + folded(seen.column(turn) * moves[:, last], 0)
        weights = seen.tables.put(
            ("line", count), lambda: line_weights(seen.tables.responses, count)
        )[seen.points[-1]]
        line = Line(eps, seen.column(weights.permute(1, 2, 0)), seen.variance)
        return walked(seen.tables.walk, line, swept.states[:, -1], points, open_)


def columns(responses: Responses) -> NDArray[np.float64]:
    """What `spreads` and `slopes` need of the steps' levels, (N, Q, 3): s, (s / a)^2 and a^2 / s.

    The second is 0 at pure noise, where it stands for infinity.
    """
    a, s = responses.a, responses.s
    ratio = np.divide(s, a, out=np.zeros_like(a), where=a > 0)
    return np.stack([s, ratio**2, a**2 / s], axis=2)


def spreads(evaluated: Tensor, before: Tensor, levels: Tensor) -> Tensor:
    """Return the variance v of data along the last moves that explains them, (L, S) float64.

    Where a point has no secant it is that of the nearest earlier one; 1 if there is none.

    Parameters
    ----------
    evaluated, before : Tensor, shape (2, L, S, *shape)
        State asked for and eps, of this evaluation and of the one before, NaN where there is none.
    levels : Tensor, shape (L, S, 3)
        `columns` of the steps' first evaluations.
    """
    moves = (evaluated - before).double().flatten(3)
    square, cross = folded(moves * moves[0], 3)
    s, ratio, _ = levels.unbind(2)
    least = (100 * torch.finfo(evaluated.dtype).eps) ** 2 * moves.shape[3]
    share = (1 - s * cross / square).clamp(LEAST, 1 - LEAST)
    found = share / (1 - share) * ratio
    slots = torch.arange(len(s), device=s.device)[:, None]
    at = torch.where((square > least) & (ratio > 0), slots, -1).cummax(dim=0).values
    return torch.where(at < 0, 1.0, found.gather(0, at.clamp(min=0)))


def slopes(spread: Tensor, levels: Tensor) -> Tensor:
    """Return kappa = s / (s^2 + a^2 v) of every evaluation, (L, S, Q), of `columns`."""
    s, _, ratio = levels.unbind(3)
    return (s + ratio * spread[..., None]).reciprocal()


def line_weights(responses: Responses, count: int) -> NDArray[np.float64]:
    """Weights of a straight line through ``count`` points up to each one, in the clock s / (a + s).

    Returns
    -------
    array, shape (N, 2, count)
        Of the values there in the line's value at clock 0, and in its rise.
    """
    clock = responses.s[:, 0] / (responses.a[:, 0] + responses.s[:, 0])
    weights = np.zeros((len(clock), 2, count))
    for i in range(count - 1, len(clock)):
        apart = clock[i + 1 - count : i + 1] - (middle := clock[i + 1 - count : i + 1].mean())
        rise = apart / ((apart**2).sum() or 1.0)
        weights[i] = 1 / count - middle * rise, rise
    return weights


class Line:
    """A network whose eps changes evenly in the clock s / (a + s), by least squares.

    Parameters
    ----------
    eps : Tensor, shape (P, S, *shape)
        What it has said at P points.
    weights : Tensor, shape (2, P, S, 1, ...)
        Of `line_weights`.
    variance : Tensor, optional
        What it says beside at these points, see `Prediction`.
    """

    def __init__(self, eps: Tensor, weights: Tensor, variance: Tensor | None = None) -> None:
        self._base, self._rise = folded(weights * eps, 1).unbind()
        self._variance = None if variance is None else variance[-1]

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Say what is taken to be seen."""
        a, s = level.a, level.s
        eps = self._base + s / (a + s) * self._rise
        return Prediction((x - s * eps) / a, eps, self._variance)


def walked(
    walk: Propagator,
    network: Callable[[Tensor, Level], Prediction],
    state: Tensor,
    points: range,
    open_: Tensor | None = None,
) -> list[Tensor]:
    """Return states (1 + H, S, *shape) after steps with a network made up.

    Where ``open_``, (len(points), S), is False a sample makes no step.
    """
    states = []
    for at, i in enumerate(points):
        x, past = walk.replay(network, state[0], tuple(state[1:]), i)
        missing = [torch.zeros_like(x)] * (len(state) - 1 - len(past))
        new = torch.stack([x, *past, *missing])
        if open_ is not None:
            new = torch.where(open_[at].view(-1, *[1] * (x.ndim - 1)), new, state)
        state = new
        states.append(state)
    return states


class Window(MethodWithWindow):
    """The window method: a sliding window with a secant slope and a predictor ahead of it."""

    name: ClassVar[str] = "window"
    unit: ClassVar[str] = "of half the data range"
    extra_tensors: ClassVar[int] = Secant.extra_tensors

    tolerance: float = Field(
        1e-3,
        ge=0,
        le=1e100,
        allow_inf_nan=False,
        description="about the error of a sample, root mean square, in half the data range; with 0 "
        "the answer is exact",
    )

    def sweep(self, problem: Problem) -> Sweep:
        """Make the sweep."""
        return Secant(problem, window=self.window)
