"""Ancestral sampling of the discrete-time model: DDPM."""

from __future__ import annotations

from math import log, sqrt
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pint_diffusion.solvers.solver import Evaluate, Solver, Stride

Variance = Literal["fixed_small", "fixed_large", "learned_range"]


class DDPM(Solver):
    """DDPM: a draw from the posterior of a step (Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7).

    With alpha = alpha_bar / alpha_bar' and beta = 1 - alpha,
    x' = (a' beta x0 + sqrt(alpha) (1 - alpha_bar') x) / (1 - alpha_bar) + sqrt(var) xi.

    var is (1 - alpha_bar') / (1 - alpha_bar) beta (``fixed_small``), beta (``fixed_large``), or
    between the two, in the logarithm, as the network says (``learned_range``, Nichol & Dhariwal
    2021). A step into clean data adds no noise.
    """

    name: ClassVar[str] = "ddpm"

    variance: Variance = Field("fixed_small", description="variance of the noise of a step")

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        seen = await evaluate(x, here)
        alpha = here.alpha_bar / there.alpha_bar
        beta = 1 - alpha
        noise = 1 - here.alpha_bar
        small = (1 - there.alpha_bar) / noise * beta
        x = (there.a * beta / noise) * seen.x0 + (sqrt(alpha) * (1 - there.alpha_bar) / noise) * x
        if small == 0:
            return x
        if self.variance != "learned_range":
            return x + sqrt(small if self.variance == "fixed_small" else beta) * stride.noise()
        assert seen.variance is not None
        share = (seen.variance + 1) / 2
        return x + torch.exp(0.5 * (share * log(beta) + (1 - share) * log(small))) * stride.noise()

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return True
