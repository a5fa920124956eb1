"""Underdamped Langevin dynamics at one noise level: what PIADM's corrector steps with.

    dU = V dt,   dV = (-gamma V + score(U)) dt + sqrt(2 gamma) dB

leaves the law with this score alone, with velocities V ~ N(0, I). While the score is frozen the
pair (U, V) is Gaussian, and a step of any length can be drawn at once (Cheng et al. 2018, arXiv
1707.03663; Chen et al. 2024, arXiv 2405.15986).

`Corrected` is a walk with such steps in it: it makes one wherever its grid stays at a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import expm1, sqrt

import torch
from torch import Tensor

from pint_diffusion.solvers.propagator import Propagator
from pint_diffusion.solvers.solver import Evaluate, Past, Stride


@dataclass(frozen=True)
class Langevin:
    """The exact step with a frozen score.

    Attributes
    ----------
    length : float
        Length e of the step, in time.
    friction : float
        gamma, per time.
    """

    length: float
    friction: float

    @property
    def lost(self) -> float:
        """Share of the velocity that friction takes, 1 - exp(-gamma e)."""
        return -expm1(-self.friction * self.length)

    @property
    def covariance(self) -> tuple[float, float, float]:
        """Variance of U's noise, covariance, variance of V's, for each number alike."""
        gamma, lost = self.friction, self.lost
        lost_twice = -expm1(-2 * gamma * self.length)
        of_u = 2 / gamma * (self.length - 2 * lost / gamma + lost_twice / (2 * gamma))
        return of_u, lost**2 / gamma, lost_twice

    def __call__(
        self, u: Tensor, v: Tensor, score: Tensor, noises: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Make a step.

        Parameters
        ----------
        u, v, score : Tensor, shape (S, *shape)
            State, velocity, and the score in the state.
        noises : pair of Tensor, shape (S, *shape)
            Independent standard normal values.

        Returns
        -------
        u, v : Tensor, shape (S, *shape)
        """
        drift = self.lost / self.friction
        of_u, both, of_v = self.covariance
        along = both / sqrt(of_v)
        across = sqrt(max(of_u - along**2, 0.0))
        moved = u + drift * v + ((self.length - drift) / self.friction) * score
        turned = (1 - self.lost) * v + drift * score
        return (
            moved + along * noises[1] + across * noises[0],
            turned + sqrt(of_v) * noises[1],
        )


@dataclass(frozen=True)
class Corrected(Propagator):
    """A walk whose grid stays at some levels, and makes Langevin steps there.

    Its solver has one step and draws no noise, and is declared with a history of one: the
    velocity, which the step before such a stay draws anew.

    Attributes
    ----------
    length : float
        Of a Langevin step at a level with noise coefficient s, in units of s.
    friction : float
        In units of 1 / s.
    """

    length: float = 0.1
    friction: float = 2.0

    async def step(self, evaluate: Evaluate, x: Tensor, past: Past, i: int) -> tuple[Tensor, Past]:
        """Make step ``i`` of the grid; see `Propagator.step`."""
        levels = self.grid.levels
        here = levels[i]
        if levels[i + 1] != here:
            begins = levels[i + 1 : i + 2] == levels[i + 2 : i + 3]
            velocity = self.noise(i) if begins else torch.zeros_like(x)
            stride = Stride(levels, i, self.schedule, partial(self.noise, i))
            return await self._step(evaluate, x, stride), (velocity,)
        eps = (await evaluate(x, here)).eps
        langevin = Langevin(self.length * here.s, self.friction / here.s)
        noises = self.noise(i), self.noise(self.grid.steps + i)
        x, velocity = langevin(x, past[0], -eps / here.s, noises)
        return x, (velocity,)
