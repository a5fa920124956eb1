"""DDIM, deterministic or not, and lambda-DDIM, its conjugate family."""

from __future__ import annotations

from math import exp, sqrt
from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from pint_diffusion.grid.level import noise_into
from pint_diffusion.solvers.solver import Evaluate, Solver, Stride


class DDIM(Solver):
    """DDIM, deterministic or not (Song et al. 2021, arXiv 2010.02502, equation 12).

    x' = a' x0 + sqrt(1 - alpha_bar' - c^2) eps + c xi, with
    c = eta sqrt((1 - alpha_bar') / (1 - alpha_bar)) sqrt(1 - alpha_bar / alpha_bar').
    """

    name: ClassVar[str] = "ddim"

    eta: float = Field(0.0, ge=0, le=1, description="share of DDPM's noise")

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        here, there = stride.here, stride.there
        x0, eps = (await evaluate(x, here))[:2]
        if self.eta == 0:
            return (there.a * x0).add_(there.s * eps)
        c = self.eta * noise_into(here, there)
        x = there.a * x0 + sqrt(max(there.s**2 - c * c, 0.0)) * eps
        return x + c * stride.noise() if c else x

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return self.eta > 0


class LambdaDDIM(Solver):
    """lambda-DDIM, a conjugate integrator (Pandey et al. 2024, arXiv 2310.07894).

    With A(t) = exp(lam t) / a and Phi(t) = the integral of exp(lam t) d sigma, z = A x moves by
    z' = z - lam (t - t') z - (Phi(t) - Phi(t')) eps. Time t runs from 0 (clean) to 1 (noisiest)
    in the schedule's timesteps; lam = 0 is DDIM.
    """

    name: ClassVar[str] = "lambda_ddim"

    lam: float = Field(0.5, ge=-100, le=100, description="parameter lambda; 0 is DDIM")

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        lam = self.lam
        here, there, schedule = stride.here, stride.there, stride.schedule
        span = schedule.first - schedule.clean
        t, t_there = ((level.t - schedule.clean) / span for level in (here, there))
        dt = t - t_there
        # By parts: the integrand sigma exp(lam t) is smooth where d sigma / dt is not.
        nodes, weights = np.polynomial.legendre.leggauss(16)
        at = t_there + dt * (nodes + 1) / 2
        alpha_bar = schedule.alpha_bar(at * span + schedule.clean)
        sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
        inner = lam * dt / 2 * float(weights @ (sigma * np.exp(lam * at)))
        phi = exp(lam * t) * here.sigma - exp(lam * t_there) * there.sigma - inner
        eps = (await evaluate(x, here)).eps
        z = (1 - lam * dt) * (exp(lam * t) / here.a) * x - phi * eps
        return (there.a / exp(lam * t_there)) * z
