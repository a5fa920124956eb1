"""Explicit solvers of the variance-exploding ODE dy / d sigma = eps: Euler, Heun, midpoint.

Here y = x / a and sigma = s / a, as in the EDM paper (Karras et al. 2022, arXiv 2206.00364) and in
k-diffusion; their D is x0, and (y - D) / sigma is eps.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from pint_diffusion.solvers.solver import Evaluate, Solver, Stride


class Euler(Solver):
    """Euler's method: y' = y + (sigma' - sigma) eps."""

    name: ClassVar[str] = "euler"

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        eps = (await evaluate(x, here)).eps
        return there.a * (x / here.a + (there.sigma - here.sigma) * eps)


class EulerAncestral(Solver):
    """Euler's method to a lower level, then noise up to the next one (k-diffusion).

    y' = y + (down - sigma) eps + up xi with up = eta sigma' sqrt(1 - sigma'^2 / sigma^2), at most
    sigma', and down^2 = sigma'^2 - up^2.
    """

    name: ClassVar[str] = "euler_ancestral"

    eta: float = Field(1.0, ge=0, le=1, description="share of the noise up to the next level")

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        up = min(there.sigma, self.eta * there.sigma * sqrt(1 - (there.sigma / here.sigma) ** 2))
        down = sqrt(there.sigma**2 - up**2)
        eps = (await evaluate(x, here)).eps
        y = x / here.a + (down - here.sigma) * eps
        return there.a * (y + up * stride.noise() if up else y)

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return self.eta > 0


class Heun(Solver):
    """Heun's method after the noise level was raised (Karras et al. 2022, algorithm 2).

    Where churn_min <= sigma <= churn_max the level is first raised to sigma (1 + gamma) with
    gamma = min(churn / N, sqrt(2) - 1), by noise of standard deviation churn_noise. A step into
    clean data has no second stage.
    """

    name: ClassVar[str] = "heun"
    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2

    churn: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="noise added over the walk, as in EDM"
    )
    churn_min: float = Field(0.0, ge=0, description="least sigma with churn")
    churn_max: float = Field(inf, ge=0, description="greatest sigma with churn")
    churn_noise: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="standard deviation of churn's noise"
    )

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        y = x / here.a
        churned = self.churn_min <= here.sigma <= self.churn_max
        gamma = min(self.churn / stride.steps, sqrt(2) - 1) if churned else 0.0
        if gamma > 0:
            raised = stride.level(here.sigma * (1 + gamma))
            y = y + self._spread(here.sigma, gamma) * stride.noise()
            x, here = raised.a * y, raised
        slope = (await evaluate(x, here)).eps
        dt = there.sigma - here.sigma
        end = there.a * (y + dt * slope)
        if there.sigma == 0:
            return end
        slope_there = (await evaluate(end, there)).eps
        return there.a * (y + dt / 2 * (slope + slope_there))

    def _spread(self, sigma: float, gamma: float) -> float:
        """Standard deviation of the noise that raises a level to sigma (1 + gamma)."""
        return self.churn_noise * sigma * sqrt((1 + gamma) ** 2 - 1)

    @model_validator(mode="after")
    def _churn_rises(self) -> Heun:
        if self.churn_min > self.churn_max:
            raise ValueError(
                f"`churn_min` {self.churn_min:g} is above `churn_max` {self.churn_max:g}: no noise "
                "level lies between them, so exchange the two"
            )
        return self

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return self.churn > 0

    @property
    def starts_here(self) -> bool:
        """Whether the first evaluation is of the start state: not of one that was raised."""
        return self.churn == 0


class DPM2(Solver):
    """DPM-Solver-2: the slope at the geometric mean of the two noise levels.

    Karras et al. 2022, algorithm 3 with the midpoint in log sigma. A step into clean data is
    Euler's.
    """

    name: ClassVar[str] = "dpm2"
    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        y = x / here.a
        slope = (await evaluate(x, here)).eps
        if there.sigma > 0:
            middle = stride.level(sqrt(here.sigma * there.sigma))
            x = middle.a * (y + (middle.sigma - here.sigma) * slope)
            slope = (await evaluate(x, middle)).eps
        return there.a * (y + (there.sigma - here.sigma) * slope)
