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

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid.level import noise_into
from pint_diffusion.methods.method import Method, points
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.engine import picard
from pint_diffusion.methods.rounds.sweep import Copies, Seen, Swept
from pint_diffusion.methods.rounds.warm_start import trajectory
from pint_diffusion.numerics.sums import folded, mean_square
from pint_diffusion.solvers import Propagator


class ParaTAA(Copies):
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
    warm_start : Path, optional
        Run on whose trajectory the points begin; as copies of the noise if not given.
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
        warm_start: Path | None,
    ) -> None:
        self.window, self.order, self.ridge = window, order, ridge
        self.extra_tensors = 2 * (memory - 1)
        levels, tolerance = problem.grid.levels, problem.tolerance
        share = tolerance if noise_tolerance is None else noise_tolerance
        noises = [noise_into(*pair) for pair in pairwise(levels)]
        self.limits = np.array(
            [0.0, *(max(tolerance, share * noise) ** 2 for noise in noises[:-1])]
        )
        self.guess = trajectory(problem, warm_start)[1:-1] if warm_start else None

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
            growth = tables.put("growth", lambda: tables.responses.moves[:, 0, -1, 0])[seen.points]
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


def check(
    problem: Problem,
    *,
    window: int,
    noise_tolerance: float | None,
    warm_start: Path | None,
    **_: Any,
) -> None:
    """Refuse what can't be solved, or not so.

    Raises
    ------
    InputError
        If the solver is a multistep one, if the tolerance is 0 and the other one is not, or if
        there is no trajectory to begin on.
    """
    if problem.fine.solver.history:
        raise InputError(
            f"--method parataa takes steps of a one-step solver together, and {problem.fine.name} "
            "carries a history: take another solver or method"
        )
    if problem.tolerance == 0 and noise_tolerance:
        raise InputError(
            f"--tolerance 0 asks for the exact answer, and --noise-tolerance {noise_tolerance:g} "
            "lets points end before: leave one of them out"
        )
    if warm_start is not None:
        if window < problem.grid.steps:
            raise InputError(
                f"--warm-start needs a window that holds all {problem.grid.steps} steps, and "
                f"--window is {window}: raise it"
            )
        trajectory(problem, warm_start)


PARATAA = Method(
    partial(picard, ParaTAA),
    options={
        **{"window": 100, "order": 20, "memory": 2, "ridge": 1e-3},
        **dict.fromkeys(("noise_tolerance", "warm_start")),
    },
    tolerance=1e-3,
    unit="root mean square residual",
    rounds=True,
    columns=points,
    check=check,
)
"""The method."""
