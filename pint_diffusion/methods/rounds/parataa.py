"""ParaTAA: triangular Anderson acceleration of the walk (Tang et al. 2024, arXiv 2402.09970).

Phi_i is the step from point i, X the states that were evaluated, r_i = Phi_{i-1}(X_{i-1}) - X_i the
first-order residual of point i, and A_i the growth of a state in step i while eps is frozen. The
map of order k makes the last k steps again with the outputs as they are,

    F_i = Phi_{i-1}(X_{i-1}) + A_{i-1} (r_{i-1} + A_{i-2} (r_{i-2} + ...)),      k - 1 residuals,

none from before the window. With R = F - X, and dX_p, dR_p the differences of X and R from round
to round, newest first, m - 1 of them, the new states are

    F_i - sum_p gamma_p (dX_p + dR_p)_i,
    gamma = (B + ridge I)^-1 d,   B_pq = sum_{j<=i} <dR_p, dR_q>_j,   d_p = sum_{j<=i} <dR_p, R>_j.

The safeguard: the first unfinished point and those before it take F. So it is final, and the next
window begins there. A point is unfinished while the root mean square of r is above its limit.

The sums are made in float64, for every sample by itself, in the order of the points, and by every
rank alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid.level import noise_into
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.method import MethodWithWindow, refuse_history
from pint_diffusion.methods.rounds.sweep import Copies, Seen, Sweep, Swept
from pint_diffusion.numerics.sums import folded, mean_square
from pint_diffusion.options import PlacedPath
from pint_diffusion.solvers import Propagator


class Triangular(Copies):
    """The sweep. With a point it keeps X and R of the last m - 1 rounds, NaN where there is none.

    Parameters
    ----------
    problem : Problem
        Its tolerance is the limit of a residual.
    window : int
        Most points of a window.
    order : int
        k, steps that a map makes again.
    memory : int
        m, rounds that an update is made of.
    ridge : float
        lambda of the paper.
    noise_tolerance : float, optional
        Limit in units of the noise that DDPM adds in the step to a point; the greater limit holds.
        The tolerance if not given.
    guess : sequence of Tensor, optional
        States (S, *shape) of points 0 .. N on which the iteration begins; copies of the noise if
        not given.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        window: int,
        order: int,
        memory: int,
        ridge: float,
        noise_tolerance: float | None,
        guess: Sequence[Tensor] | None,
    ) -> None:
        self.window, self.order, self.ridge = window, order, ridge
        self.extra_tensors = 2 * (memory - 1)
        levels, tolerance = problem.grid.levels, problem.tolerance
        share = tolerance if noise_tolerance is None else noise_tolerance
        noises = [noise_into(*pair) for pair in pairwise(levels)]
        self.limits = np.array(
            [0.0, *(max(tolerance, share * noise) ** 2 for noise in noises[:-1])]
        )
        self.guess = None if guess is None else list(guess[1:-1])

    def reach(self, begin: int, evaluated: int) -> int:
        """Return the end of a window."""
        return begin + self.window

    def start(self, walk: Propagator, noise: Tensor, count: int) -> Tensor:
        """Return the first states: those of a run that it begins on, or copies of the noise."""
        if self.guess is None:
            return super().start(walk, noise, count)
        return torch.stack([noise, *self.guess])[None]

    def __call__(self, seen: Seen) -> Swept:
        """Sweep; see `Sweep`."""
        tables, dtype = seen.tables, seen.states.dtype
        x, own = seen.states[0].double(), seen.states[1:]
        first = seen.after[0].double()
        residuals = torch.cat([torch.zeros_like(x[:1]), first[:-1] - x[1:]])
        mapped = first
        if self.order > 1:
            linear = tables.responses
            growth = tables.put("growth", lambda: linear.moves[:, 0, linear.stages, 0])[seen.points]
            growth = growth.view(*growth.shape, *[1] * (x.ndim - 2))
            mapped = first + growth * grown(residuals, growth, self.order - 1)
        limits = tables.put("limits", lambda: self.limits)[seen.points]
        finished = (mean_square(residuals, 2) <= limits).long().cumprod(0)
        moved, far = mapped, mapped[:-1] - x[1:]
        if self.extra_tensors and seen.slots > 1:
            rounds = torch.cat([torch.stack([x[1:], far]), own[:, 1:].double()])
            change = anderson(rounds.flatten(3), self.ridge).view_as(far)
            before = finished[:-1].bool().view(*finished[:-1].shape, *[1] * (x.ndim - 2))
            moved = torch.cat([torch.where(before, mapped[:-1], mapped[:-1] - change), mapped[-1:]])
            known = torch.cat([rounds[:2].to(dtype), own[:, 1:]])[: self.extra_tensors]
            own = torch.cat([own[:, :1], known], dim=1)
        states = torch.cat([seen.states[0, :1], moved.to(dtype)])[None]
        return Swept(states, own, finished.sum(0))


def grown(residuals: Tensor, growth: Tensor, count: int) -> Tensor:
    """Return r_q + A_{q-1} (r_{q-1} + A_{q-2} (...)), ``count`` residuals, for every slot q.

    Parameters
    ----------
    residuals : Tensor, shape (L, S, *shape)
        r of every slot, zero in the first one; none comes from before the window.
    growth : Tensor, shape (L, S, 1, ...)
        A of every slot's step.
    """
    slots = len(residuals)
    count = min(count, slots)
    before = residuals.new_zeros((count, *residuals.shape[1:]))
    r = torch.cat([before, residuals])
    a = torch.cat([growth.new_zeros((count, *growth.shape[1:])), growth])
    total = r[1 : 1 + slots]
    for at in range(2, count + 1):
        total = r[at : at + slots] + a[at - 1 : at - 1 + slots] * total
    return total


def anderson(rounds: Tensor, ridge: float) -> Tensor:
    """Return sum_p gamma_p (dX_p + dR_p) of every point, (P, S, D).

    Every sample has a least squares problem of its own, which grows from point to point.

    Parameters
    ----------
    rounds : Tensor, shape (2 m, P, S, D), float64
        X and R of this round and of those before, newest first; NaN where there is none.
    ridge : float
        Added to the diagonal.
    """
    dx, dr = ((part[:-1] - part[1:]).nan_to_num(nan=0.0) for part in (rounds[::2], rounds[1::2]))
    products = dr[:, None] * torch.cat([dr, rounds[1:2]])
    sums = folded(products, 4).cumsum(dim=2)
    b, d = sums[:, :-1], sums[:, -1]
    if len(dr) == 1:
        gamma = d / (b[0] + ridge)
    else:
        diagonal = ridge * torch.eye(len(dr), dtype=b.dtype, device=b.device)
        system, wanted = b.permute(2, 3, 0, 1) + diagonal, d.permute(1, 2, 0)[..., None]
        gamma = torch.linalg.solve_ex(system, wanted)[0][..., 0].permute(2, 0, 1)
    usable = torch.isfinite(gamma).all(dim=0)  # not where B is so great that the ridge is lost in
    gamma = torch.where(usable, gamma, 0.0)  # it: the plain update
    return folded(gamma[..., None] * (dx + dr), 0)


class ParaTAA(MethodWithWindow):
    """ParaTAA: fixed-point iterations on a window with triangular Anderson acceleration."""

    name: ClassVar[str] = "parataa"
    unit: ClassVar[str] = "root mean square residual"

    window: PositiveInt = Field(100, description="most points evaluated at once")
    order: PositiveInt = Field(20, le=10_000, description="steps that a map makes again, k")
    memory: PositiveInt = Field(2, le=100, description="rounds that an update is made of, m")
    ridge: float = Field(
        1e-3, gt=0, allow_inf_nan=False, description="regularization of the updates, lambda"
    )
    noise_tolerance: float | None = Field(
        None,
        ge=0,
        le=1e100,
        allow_inf_nan=False,
        description="limit of a residual in units of the noise of a DDPM step, where that is the "
        "greater one; the tolerance if not given",
    )
    warm_start: PlacedPath = Field(
        None, description="folder of a run on whose trajectory the points begin"
    )
    tolerance: float = Field(
        1e-3,
        ge=0,
        le=1e100,
        allow_inf_nan=False,
        description="root mean square residual of a point that is done; with 0 the answer is exact",
    )

    @property
    def extra_tensors(self) -> int:  # type: ignore[override]
        """X and R of the last m - 1 rounds."""
        return 2 * (self.memory - 1)

    @property
    def begins_on(self) -> Path | None:
        """Run on whose trajectory the points begin."""
        return self.warm_start

    def check(self, problem: Problem) -> None:
        """Refuse a multistep solver, and options that contradict one another."""
        refuse_history(self, problem, "takes steps of a one-step solver together")
        if self.tolerance == 0 and self.noise_tolerance:
            raise InputError(
                f"`tolerance` 0 asks for the exact answer, and `noise_tolerance` "
                f"{self.noise_tolerance:g} lets points end before: leave one of them out"
            )
        if self.warm_start is not None and self.window < problem.grid.steps:
            raise InputError(
                f"`warm_start` needs a window that holds all {problem.grid.steps} steps, and "
                f"`window` is {self.window}: raise it"
            )

    def sweep(self, problem: Problem) -> Sweep:
        """Make the sweep."""
        return Triangular(
            problem,
            window=self.window,
            order=self.order,
            memory=self.memory,
            ridge=self.ridge,
            noise_tolerance=self.noise_tolerance,
            guess=problem.guess,
        )
