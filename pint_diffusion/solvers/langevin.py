"""Underdamped Langevin dynamics at one noise level: what PIADM's corrector steps with.

    dU = V dt,   dV = (-gamma V + score(U)) dt + sqrt(2 gamma) dB

leaves the law with this score alone, with velocities V ~ N(0, I). While the score is frozen the
pair (U, V) is Gaussian, and a step of any length can be drawn at once (Cheng et al. 2018, arXiv
1707.03663; Chen et al. 2024, arXiv 2405.15986).

`Corrected` is a solver with such steps in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, sqrt
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.options import Options
from pint_diffusion.solvers.solver import Evaluate, Past, Solver, Stride


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


class Corrected(Solver):
    """A one-step solver that makes a Langevin step wherever its grid stays at a level.

    It carries one tensor: the velocity, which the step before such a stay draws anew.

    Attributes
    ----------
    solver : Solver
        Makes the other steps; deterministic, without a history of its own.
    length : float
        Of a Langevin step at a level with noise coefficient s, in units of s.
    friction : float
        In units of 1 / s.
    """

    name: ClassVar[str] = "corrected"
    history: ClassVar[int] = 1

    solver: Solver
    length: float
    friction: float

    async def step(
        self, evaluate: Evaluate, x: Tensor, past: Past, stride: Stride
    ) -> tuple[Tensor, Past]:
        """Make one step of states x (S, *shape); see `Solver`."""
        levels, i, here = stride.levels, stride.i, stride.here
        if stride.there != here:
            stays = levels[i + 1 : i + 2] == levels[i + 2 : i + 3]
            velocity = stride.noise() if stays else torch.zeros_like(x)
            return await self.solver.step(evaluate, x, stride), (velocity,)
        eps = (await evaluate(x, here)).eps
        langevin = Langevin(self.length * here.s, self.friction / here.s)
        x, velocity = langevin(x, past[0], -eps / here.s, (stride.noise(), stride.noise(1)))
        return x, (velocity,)


class Corrector(Options):
    """Langevin steps at every slice boundary."""

    name: ClassVar[str] = "corrector"
    prefix: ClassVar[str] = "corrector_"

    steps: int = Field(0, ge=0, description="Langevin steps at every slice boundary")
    length: float = Field(
        0.1, gt=0, le=10, description="length of a Langevin step, in units of the noise coefficient"
    )
    friction: float = Field(
        2.0, ge=1e-3, le=1e3, description="friction of the Langevin steps, in the inverse unit"
    )

    def corrected(self, solver: Solver) -> Corrected:
        """Return a solver that makes these steps too.

        Raises
        ------
        InputError
            If the solver draws noise or carries a history.
        """
        if solver.stochastic or solver.history:
            does = "draws noise" if solver.stochastic else "carries a history"
            raise InputError(
                f"`corrector_steps` is for deterministic one-step solvers, and the solver "
                f"{solver.name} {does}: take another, such as ou_ode"
            )
        return Corrected(solver=solver, length=self.length, friction=self.friction)
