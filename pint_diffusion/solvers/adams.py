"""Adams-Bashforth solvers of dy / d sigma = eps with y = x / a: DEIS and PNDM."""

from __future__ import annotations

from math import exp, expm1
from typing import ClassVar

import numpy as np
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.solvers.solver import Evaluate, Multistep, Past, Stride

PLMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth weights of equal steps, newest first."""


class DEIS(Multistep):
    """tAB-DEIS: eps is continued by a polynomial in log sigma and integrated over sigma.

    Zhang & Chen 2023 (arXiv 2204.13902), in log rho. The solver carries one value of eps less than
    its order.
    """

    name: ClassVar[str] = "deis"
    order: ClassVar[int] = 2
    history: ClassVar[int] = 1

    async def step(
        self, evaluate: Evaluate, x: Tensor, past: Past, stride: Stride
    ) -> tuple[Tensor, Past]:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        eps = (await evaluate(x, here)).eps
        seen = (eps, *past)[: stride.highest_order(self.order)]
        # u = log(sigma / sigma_here), and the weights are exact for 1, u, u^2, ...
        u = [here.lam - stride.levels[stride.i - j].lam for j in range(len(seen))]
        end = here.lam - there.lam
        moments = [expm1(end)]
        for j in range(1, len(seen)):
            moments.append(end**j * exp(end) - j * moments[-1])
        weights = np.linalg.solve(np.vander(u, increasing=True).T, moments).tolist()
        return _move(x, _mix(weights, seen), here, there, here.sigma), (eps, *past)[: self.history]


class DEIS3(DEIS):
    """tAB-DEIS of third order."""

    name: ClassVar[str] = "deis_3"
    order: ClassVar[int] = 3
    history: ClassVar[int] = 2


class PNDM(Multistep):
    """PLMS, the linear multistep form of PNDM (Liu et al. 2022, arXiv 2202.09778).

    The weights are those of equal steps, whatever the grid. The first step is a trapezoidal one of
    two evaluations. The solver carries three values of eps.
    """

    name: ClassVar[str] = "pndm"
    order: ClassVar[int] = 2
    history: ClassVar[int] = 3

    async def step(
        self, evaluate: Evaluate, x: Tensor, past: Past, stride: Stride
    ) -> tuple[Tensor, Past]:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        change = there.sigma - here.sigma
        eps = (await evaluate(x, here)).eps
        seen = (eps, *past)
        slope = _mix(PLMS[len(past)], seen)
        if not past and there.sigma > 0:
            end = _move(x, eps, here, there, change)
            slope = (eps + (await evaluate(end, there)).eps) / 2
        return _move(x, slope, here, there, change), seen[:3]


def _mix(weights: tuple[float, ...] | list[float], seen: tuple[Tensor, ...]) -> Tensor:
    mixed = weights[0] * seen[0]
    for weight, value in zip(weights[1:], seen[1:], strict=True):
        mixed = mixed + weight * value
    return mixed


def _move(x: Tensor, slope: Tensor, here: Level, there: Level, length: float) -> Tensor:
    return there.a * (x / here.a + length * slope)
