"""Explicit solvers of the variance-exploding ODE dy / d sigma = eps: Euler, Heun, midpoint.

Here y = x / a and sigma = s / a, as in the EDM paper (Karras et al. 2022, arXiv 2206.00364) and in
k-diffusion; their D is x0, and (y - D) / sigma is eps.
"""

from __future__ import annotations

from math import sqrt

from torch import Tensor

from pint_diffusion.solvers.solver import Evaluate, Stride


async def euler(evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
    """Step with y' = y + (sigma' - sigma) eps. Parameters as for `ddim`."""
    here, there = stride.here, stride.there
    eps = (await evaluate(x, here)).eps
    return there.a * (x / here.a + (there.sigma - here.sigma) * eps)


async def euler_ancestral(evaluate: Evaluate, x: Tensor, stride: Stride, *, eta: float) -> Tensor:
    """Step with Euler to a lower level and add noise up to the next one (k-diffusion).

    y' = y + (down - sigma) eps + up xi with up = eta sigma' sqrt(1 - sigma'^2 / sigma^2), at most
    sigma', and down^2 = sigma'^2 - up^2. Parameters as for `ddim`.
    """
    here, there = stride.here, stride.there
    up = min(there.sigma, eta * there.sigma * sqrt(1 - (there.sigma / here.sigma) ** 2))
    down = sqrt(there.sigma**2 - up**2)
    eps = (await evaluate(x, here)).eps
    y = x / here.a + (down - here.sigma) * eps
    return there.a * (y + up * stride.noise() if up else y)


async def heun(
    evaluate: Evaluate,
    x: Tensor,
    stride: Stride,
    *,
    churn: float,
    churn_min: float,
    churn_max: float,
    churn_noise: float,
) -> Tensor:
    """Step with Heun's method after raising the noise level (Karras et al. 2022, algorithm 2).

    Where churn_min <= sigma <= churn_max the level is first raised to sigma (1 + gamma) with
    gamma = min(churn / N, sqrt(2) - 1), by noise of standard deviation churn_noise. A step into
    clean data has no second stage. Parameters as for `ddim`.
    """
    here, there = stride.here, stride.there
    y = x / here.a
    gamma = min(churn / stride.steps, sqrt(2) - 1) if churn_min <= here.sigma <= churn_max else 0.0
    if gamma > 0:
        raised = stride.level(here.sigma * (1 + gamma))
        y = y + churn_noise * here.sigma * sqrt((1 + gamma) ** 2 - 1) * stride.noise()
        x, here = raised.a * y, raised
    slope = (await evaluate(x, here)).eps
    dt = there.sigma - here.sigma
    end = there.a * (y + dt * slope)
    if there.sigma == 0:
        return end
    slope_there = (await evaluate(end, there)).eps
    return there.a * (y + dt / 2 * (slope + slope_there))


async def dpm2(evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
    """Step with DPM-Solver-2: the slope at the geometric mean of the two noise levels.

    Karras et al. 2022, algorithm 3 with the midpoint in log sigma. A step into clean data is
    Euler's. Parameters as for `ddim`.
    """
    here, there = stride.here, stride.there
    y = x / here.a
    slope = (await evaluate(x, here)).eps
    if there.sigma > 0:
        middle = stride.level(sqrt(here.sigma * there.sigma))
        x = middle.a * (y + (middle.sigma - here.sigma) * slope)
        slope = (await evaluate(x, middle)).eps
    return there.a * (y + (there.sigma - here.sigma) * slope)
