"""UniPC: a predictor and a corrector that share their evaluations (Zhao et al. 2023).

arXiv 2302.04867, in the form that predicts x0, with B(h) = e^{-h} - 1 ("bh2").
"""

from __future__ import annotations

from math import expm1

import numpy as np
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.solvers.solver import Evaluate, Past, Stride


async def unipc(
    evaluate: Evaluate, x: Tensor, past: Past, stride: Stride, *, order: int
) -> tuple[Tensor, Past]:
    """Correct x with what the network sees in it, then step on with `order` values of x0.

    The corrected state is not evaluated again. The first steps of a walk and its last ones have
    lower orders. Carries the last x0, the state that the last step began at, and older x0.
    Parameters as for `dpmpp_2m`.
    """
    levels, i = stride.levels, stride.i
    x0 = (await evaluate(x, stride.here)).x0
    older: Past = ()
    if past:
        newest, began, *rest = past
        older = (newest, *rest)
        last_order = min(order, len(older), stride.left + 1)
        seen = [(levels[i - 1 - j], older[j]) for j in range(last_order)]
        x = _move(began, [*seen, (stride.here, x0)], stride.here)
    seen = [(levels[i - j], value) for j, value in enumerate((x0, *older))]
    x_there = _move(x, seen[: min(order, stride.left)], stride.there)
    return x_there, (x0, x, *older[: order - 1])


def _move(x: Tensor, seen: list[tuple[Level, Tensor]], there: Level) -> Tensor:
    """Move x from the first of the levels, with the x0 seen there and at the others.

    x' = s'/s x - a' B (x0 + sum_j rho_j (x0_j - x0) / r_j), r_j = (lam_j - lam) / h; the rho make
    the sum exact for polynomials in lam, but for a single one, which is 1/2.
    """
    (here, x0), others = seen[0], seen[1:]
    h = there.lam - here.lam
    ratios = [(level.lam - here.lam) / h for level, _ in others]
    slope = 0.0 * x0
    for ratio, rho, (_, value) in zip(ratios, _weights(ratios, h), others, strict=True):
        slope = slope + (rho / ratio) * (value - x0)
    return (there.s / here.s) * x - (there.a * expm1(-h)) * (x0 + slope)


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
