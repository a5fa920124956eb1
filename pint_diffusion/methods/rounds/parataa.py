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

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid.level import noise_into
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.engine import Sweep
from pint_diffusion.methods.rounds.method import MethodWithWindow, refuse_history
from pint_diffusion.methods.rounds.tape import Lane
from pint_diffusion.solvers.linear import frozen_growth


class Triangular:
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
        self.own = 2 * (memory - 1)
        levels, tolerance = problem.grid.levels, problem.tolerance
        share = tolerance if noise_tolerance is None else noise_tolerance
        steps = range(problem.grid.steps)
        self.limits = [
            0.0,
            *(max(tolerance, share * noise_into(*levels[i : i + 2])) for i in steps),
        ]
        self.growth = [frozen_growth(problem.fine, i) if i else 0.0 for i in steps]
        self.guess = None if guess is None else list(guess[1:-1])

    def stop(self, begin: int) -> int:
        """Return the end of a window."""
        return begin + self.window

    def start(self, lane: Lane) -> list[Tensor]:
        """Return the first states, of which no round is known."""
        noise = lane.x(0)
        guess = [noise] * (min(self.window, lane.steps) - 1) if self.guess is None else self.guess
        return [self.fresh(lane, x) for x in (noise, *guess)]

    def fresh(self, lane: Lane, x: Tensor) -> Tensor:
        """Make a state of which no round is known."""
        return lane.pack(x, (), [torch.full_like(x, torch.nan)] * self.own)

    def __call__(self, lane: Lane) -> tuple[list[Tensor], list[int]]:
        """Sweep; see `Sweep`."""
        states = [lane.states[0]]
        samples, device = states[0].shape[1], states[0].device
        finished = torch.ones(samples, dtype=torch.bool, device=device)  # all points so far
        done = torch.ones(samples, dtype=torch.long, device=device)
        residuals: deque[tuple[float, Tensor]] = deque(maxlen=self.order - 1)
        anderson = Anderson(self.ridge)
        for j, tape in enumerate(lane.tapes):
            i = lane.begin + j + 1
            first = mapped = tape.x.double()
            if residuals:
                mapped = first + self.growth[i - 1] * walked(residuals)
            if j + 1 == len(lane.states):
                states.append(self.fresh(lane, mapped.to(tape.x.dtype)))
                break
            x = lane.x(j + 1)
            residual, far = first - x.double(), mapped - x.double()
            residuals.append((self.growth[i - 1], residual))
            known = [x, far.to(x.dtype), *lane.own(j + 1)]
            moved = mapped
            if self.own:
                change = anderson(x.double(), far, lane.own(j + 1))
                moved = torch.where(finished.view(-1, *[1] * (x.ndim - 1)), mapped, mapped - change)
            states.append(lane.pack(moved.to(x.dtype), (), known[: self.own]))
            size = residual.flatten(1).square().mean(dim=1).sqrt()
            finished &= size <= self.limits[i]
            done += finished
        more = min(int(done.max()) - 1, lane.steps - lane.begin - len(lane.tapes))
        return states + states[-1:] * more, done.tolist()


def walked(residuals: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Add up residuals that grow on the way to the last one's point."""
    total = residuals[0][1]
    for growth, residual in list(residuals)[1:]:
        total = residual + growth * total
    return total


class Anderson:
    """The least squares problem of every sample, which grows from point to point.

    Parameters
    ----------
    ridge : float
        Added to the diagonal.
    """

    def __init__(self, ridge: float) -> None:
        self.ridge = ridge
        self.b = self.d = torch.zeros(())

    def __call__(self, x: Tensor, far: Tensor, known: Tensor) -> Tensor:
        """Take in the next point; return sum_p gamma_p (dX_p + dR_p) there.

        Parameters
        ----------
        x, far : Tensor, shape (s, *shape), float64
            X and R of this round.
        known : Tensor, shape (2 (m - 1), s, *shape)
            X and R of the rounds before, newest first.
        """
        rows = torch.cat([torch.stack([x, far]), known]).flatten(2)
        dx, dr = ((part[:-1] - part[1:]).nan_to_num(nan=0.0) for part in (rows[::2], rows[1::2]))
        self.b = self.b + (dr[:, None] * dr[None]).sum(dim=-1)
        self.d = self.d + (dr * rows[1]).sum(dim=-1)
        ridge = self.ridge * torch.eye(len(dr), dtype=rows.dtype, device=rows.device)
        gamma, _ = torch.linalg.solve_ex(self.b.permute(2, 0, 1) + ridge, self.d.T[..., None])
        usable = torch.isfinite(gamma).all(dim=1, keepdim=True)  # not where B is so great that
        gamma = torch.where(usable, gamma, 0.0)  # the ridge is lost in it: the plain update
        return (gamma.permute(1, 0, 2) * (dx + dr)).sum(dim=0).view_as(x)


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
    warm_start: Path | None = Field(
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
