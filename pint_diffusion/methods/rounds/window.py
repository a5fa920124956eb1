"""The window method: Picard sweeps with a secant slope, and a predictor ahead of them.

Like ParaDiGMS it evaluates a window of points at once and slides over those that have settled.
With x_i the state that was evaluated at point i, eps_i what the network said of it, and x_i',
eps_i' the same of the round before, a sweep steps from the new state x with

    eps = eps_i + kappa_i (x - x_i),  kappa_i = <x_i - x_i', eps_i - eps_i'> / |x_i - x_i'|^2,

the slope along which eps has just been seen to change, for each sample. It is kept between 0, which
freezes eps, and 1 / s, which freezes x0. Points evaluated for the first time take it from the
nearest earlier point, by what is the same all along a walk if data are Gaussian and only one
direction counts: the distance of logit(1 - s kappa) from the logarithmic signal-to-noise ratio.

Beyond the points evaluated, eps is on the straight line through its last values, in the clock
s / (a + s). So what comes new in a window is predicted, not copied.

A step has settled when no state that its network was asked for is further, root mean square, than
`SHARE` of the tolerance from the state evaluated, in units of half the data range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.engine import Sweep
from pint_diffusion.methods.rounds.method import MethodWithWindow
from pint_diffusion.methods.rounds.tape import Lane, Tape
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.numerics.sums import folded
from pint_diffusion.solvers.linear import BlindNetwork

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

    own = 2  # state and eps of the last evaluation, NaN before there is one

    def __init__(self, problem: Problem, *, window: int) -> None:
        self.window = window
        self.settled = SHARE * problem.tolerance * problem.half_range
        self.fitted = max(2, problem.grid.steps // STRETCH)

    def stop(self, begin: int) -> int:
        """Return the end of a window."""
        return begin + self.window

    def start(self, lane: Lane) -> list[Tensor]:
        """Return states on the straight way to x0 = 0."""
        count = min(self.window, lane.steps)
        return ahead(lane, 0, lane.x(0), (), BlindNetwork(), count)

    def __call__(self, lane: Lane) -> tuple[list[Tensor], list[int]]:
        """Sweep; see `Sweep`."""
        x, past, states = lane.x(0), lane.past(0), []
        levels, seen = [], []
        done = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        settled = torch.ones_like(done, dtype=torch.bool)
        for j, (tape, offset) in enumerate(zip(lane.tapes, offsets(lane), strict=True)):
            stage = tape.stages[0]
            states.append(lane.pack(x, past, (stage.x, stage.seen.eps)))
            reader = Reader(tape, offset)
            x, past = lane.walk.replay(reader, x, past, lane.begin + j)
            settled &= reader.moved <= self.settled**2
            done += settled
            levels.append(stage.level)
            seen.append(reader.said[0])
        line = Line(levels[-self.fitted :], seen[-self.fitted :])
        reached = min(int(done.max()) + self.window, lane.steps - lane.begin + 1)
        more = max(reached - len(states), 1)
        return states + ahead(lane, len(states), x, past, line, more), done.tolist()


def offsets(lane: Lane) -> list[list[float]]:
    """Return logit(1 - s kappa) - 2 lam for every slot and sample."""
    products = []
    for j, tape in enumerate(lane.tapes):
        stage, (x, eps) = tape.stages[0], lane.own(j).double().flatten(2)
        dx = stage.x.double().flatten(1) - x
        deps = stage.seen.eps.double().flatten(1) - eps
        products.append(torch.stack([folded(dx * deps, 1), folded(dx * dx, 1)]))
    least = (100 * torch.finfo(lane.x(0).dtype).eps) ** 2 * lane.x(0)[0].numel()
    found, last = [], [0.0] * lane.x(0).shape[0]  # kappa = s: v is frozen
    for tape, (cross, square) in zip(lane.tapes, torch.stack(products).tolist(), strict=True):
        level = tape.stages[0].level
        if level.a:
            last = [
                logit(1 - level.s * up / along) - 2 * level.lam if along > least else before
                for up, along, before in zip(cross, square, last, strict=True)
            ]
        found.append(last)
    return found


def logit(share: float) -> float:
    """Return the logit of a share, which is kept away from 0 and 1."""
    share = min(max(share, LEAST), 1 - LEAST)
    return log(share / (1 - share))


def slope(offset: Sequence[float], level: Level, x: Tensor) -> Tensor:
    """Return kappa of every sample at a level, (s, 1, ...)."""
    kappa = [1 / (1 + exp(2 * level.lam + one)) / level.s for one in offset]
    return torch.tensor(kappa, dtype=x.dtype).to(x.device).view(-1, *[1] * (x.ndim - 1))


class Reader:
    """Reads out a tape to moved states, and remembers how far they had moved, in mean square."""

    def __init__(self, tape: Tape, offset: Sequence[float]) -> None:
        self._stages = iter(tape.stages)
        self._offset = offset
        self.said: list[Prediction] = []
        self.moved = torch.zeros(1, dtype=torch.float64, device=tape.x.device)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Say what is taken to be seen."""
        stage = next(self._stages)
        dx = (x - stage.x).double().flatten(1)
        self.moved = torch.maximum(self.moved, folded(dx * dx, 1) / dx.shape[1])
        self.said.append(stage.moved(x, slope(self._offset, level, x)))
        return self.said[-1]


class Line:
    """A network whose eps changes evenly in the clock s / (a + s), by least squares."""

    def __init__(self, levels: Sequence[Level], seen: Sequence[Prediction]) -> None:
        clock = [level.s / (level.a + level.s) for level in levels]
        middle = sum(clock) / len(clock)
        spread = sum((c - middle) ** 2 for c in clock)
        self._last, self._middle = seen[-1], middle
        self._mean = torch.zeros_like(seen[-1].eps)
        self._rise = torch.zeros_like(seen[-1].eps)
        for c, one in zip(clock, seen, strict=True):
            self._mean += one.eps / len(seen)
            self._rise += (c - middle) / (spread or 1.0) * one.eps

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Say what is taken to be seen."""
        a, s = level.a, level.s
        eps = self._mean + (s / (a + s) - self._middle) * self._rise
        return self._last._replace(x0=(x - s * eps) / a, eps=eps)


def ahead(
    lane: Lane,
    j: int,
    x: Tensor,
    past: tuple[Tensor, ...],
    network: Callable[[Tensor, Level], Prediction],
    count: int,
) -> list[Tensor]:
    """Return ``count`` states from that of slot ``j`` on, by steps with a network made up."""
    nothing = torch.full_like(x, torch.nan)
    states = [lane.pack(x, past, (nothing, nothing))]
    for i in range(lane.begin + j, lane.begin + j + count - 1):
        x, past = lane.walk.replay(network, x, past, i)
        states.append(lane.pack(x, past, (nothing, nothing)))
    return states


class Window(MethodWithWindow):
    """The window method: a sliding window with a secant slope and a predictor ahead of it."""

    name: ClassVar[str] = "window"
    unit: ClassVar[str] = "of half the data range"
    extra_tensors: ClassVar[int] = Secant.own

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
