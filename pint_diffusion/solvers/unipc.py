"""UniPC: a predictor and a corrector that share their evaluations (Zhao et al. 2023).

arXiv 2302.04867, in the form that predicts x0, with B(h) = e^{-h} - 1 ("bh2").
"""

from __future__ import annotations

from math import expm1
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.solvers.solver import Evaluate, Multistep, Past, Stride


class UniPC(Multistep):
    """UniPC: x is corrected with what the network sees in it, then stepped on with two x0.

    Predictor and corrector start at the same state, so the correction needs their slopes only,
    not that state. The corrected state is not evaluated again. The first steps of a walk and its
    last ones have lower orders. The solver carries these x0.
    """

    name: ClassVar[str] = "unipc"
    order: ClassVar[int] = 3
    history: ClassVar[int] = 2

    async def step(
        self, evaluate: Evaluate, x: Tensor, past: Past, stride: Stride
    ) -> tuple[Tensor, Past]:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there, i = stride.here, stride.there, stride.i
        x0 = (await evaluate(x, here)).x0
        seen = [(stride.levels[i - j], value) for j, value in enumerate((x0, *past))]
        if past:
            before = seen[1 : 1 + min(self.history, stride.left + 1)]
            h = here.lam - before[0][0].lam
            change = _slope([*before, seen[0]], h) - _slope(before, h)
            x = x - (here.a * expm1(-h)) * change
        h = there.lam - here.lam
        slope = _slope(seen[: min(self.history, stride.left)], h)
        x = (there.s / here.s) * x - (there.a * expm1(-h)) * (x0 + slope)
        return x, (x0, *past)[: self.history]


class UniPC3(UniPC):
    """UniPC with three values of x0."""

    name: ClassVar[str] = "unipc_3"
    order: ClassVar[int] = 4
    history: ClassVar[int] = 3


def _slope(seen: list[tuple[Level, Tensor]], h: float) -> Tensor:
    """Return sum_j rho_j (x0_j - x0) / r_j with r_j = (lam_j - lam) / h, x0 the first one seen.

    The rho make a step of length h exact for polynomials in lam, but for a single one: 1/2.
    """
    (start, x0), others = seen[0], seen[1:]
    ratios = [(level.lam - start.lam) / h for level, _ in others]
    total = torch.zeros_like(x0)
    for ratio, rho, (_, value) in zip(ratios, _weights(ratios, h), others, strict=True):
        total = total + (rho / ratio) * (value - x0)
    return total


def _weights(ratios: list[float], h: float) -> list[float]:
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    moments = []
    phi, factorial = expm1(-h) / -h - 1, 1.0
    for j in range(1, len(ratios) + 1):
        moments.append(phi * factorial / expm1(-h))
        factorial *= j + 1
        phi = phi / -h - 1 / factorial
    return np.linalg.solve(np.vander(ratios, increasing=True).T, moments).tolist()
