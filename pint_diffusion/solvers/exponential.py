"""Exponential integrators of the Ornstein-Uhlenbeck form, as PIADM uses them.

In Ornstein-Uhlenbeck time, -log alpha_bar, the backward equations are dx = (x / 2 + score) dt + dB
(SDE) and dx = (x + score) / 2 dt (ODE), with score = -eps / s. Over a step of length e the score
is frozen and the linear part is exact (Chen et al. 2024, arXiv 2405.15986); e^{e / 2} = a' / a.
"""

from __future__ import annotations

from math import sqrt
from typing import ClassVar

from torch import Tensor

from pint_diffusion.solvers.solver import Evaluate, Solver, Stride


class OUODE(Solver):
    """Exponential integrator of the ODE: x' = e^{e/2} x + (e^{e/2} - 1) score."""

    name: ClassVar[str] = "ou_ode"

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        growth = stride.there.a / stride.here.a
        eps = (await evaluate(x, stride.here)).eps
        return growth * x - ((growth - 1) / stride.here.s) * eps


class OUSDE(Solver):
    """Exponential integrator of the SDE.

    x' = e^{e/2} x + 2 (e^{e/2} - 1) score + sqrt(e^e - 1) xi.
    """

    name: ClassVar[str] = "ou_sde"

    async def step(self, evaluate: Evaluate, x: Tensor, stride: Stride) -> Tensor:
        """Make one step of states x (S, *shape); see `Solver`."""
        growth = stride.there.a / stride.here.a
        eps = (await evaluate(x, stride.here)).eps
        drift = growth * x - (2 * (growth - 1) / stride.here.s) * eps
        return drift + sqrt(growth**2 - 1) * stride.noise()

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return True
