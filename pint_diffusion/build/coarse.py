"""The coarse propagator G: its options, and how it is chosen to fit the fine one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, PositiveInt
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.models.kinds import absolute
from pint_diffusion.numerics.noise import StepNoise
from pint_diffusion.options import Options
from pint_diffusion.solvers import DDIM, SOLVERS, AnySolver
from pint_diffusion.solvers.linear import noise_weights, try_walk
from pint_diffusion.solvers.propagator import Propagator
from pint_diffusion.solvers.solver import Solver

DEFAULT_NOISE = "sum"
"""Of the coarse steps of a stochastic solver: what needs fewer iterations, see docs/solvers.md."""


class Coarse(Options):
    """How coarse solves are made."""

    name: ClassVar[str] = "coarse"
    prefix: ClassVar[str] = "coarse_"

    solver: AnySolver | None = Field(
        None,
        description="solver of the coarse steps; the fine one if it draws noise that coarse steps "
        "sum up, or takes one evaluation per step and has no history, else ddim",
    )
    steps: PositiveInt = Field(1, description="steps of a coarse solve over one slice")
    noise: Literal["none", "sum"] | None = Field(
        None,
        description="of a stochastic solver's coarse steps: none (they are made by ddim), or the "
        "weighted sum of the noise of the fine steps",
    )
    model: Annotated[Any, AfterValidator(absolute)] = Field(
        None, description="network of the coarse steps, or its name; the fine one if not given"
    )

    def choose(self, fine: Solver) -> Solver:
        """Return the solver of the coarse steps.

        Raises
        ------
        InputError
            If it carries history, or if its noise does not fit the fine solver's.
        """
        wanted = self.noise
        if wanted == "sum" and not fine.stochastic:
            raise InputError(
                f"`coarse_noise` sum adds up the noise of the fine steps, but the solver "
                f"{fine.name} with these options draws none: leave it out"
            )
        summed = fine.stochastic and (wanted or DEFAULT_NOISE) == "sum"
        solver = self.solver
        if solver is None:
            cheap = fine.evaluations == 1 and not fine.history
            solver = fine if summed or (cheap and not fine.stochastic) else DDIM()
        if solver.history:
            legal = ", ".join(name for name, one in SOLVERS.items() if not one.history)
            raise InputError(
                f"`coarse_solver` {solver.name} is a multistep solver, and a coarse solve has no "
                f"steps before it: use one of {legal}"
            )
        if type(solver) is type(fine) and fine.stochastic == summed:
            solver = fine
        if solver.stochastic and not fine.stochastic:
            raise InputError(
                f"`coarse_solver` {solver.name} draws noise, but the solver {fine.name} with these "
                "options does not: use a deterministic one, such as ddim"
            )
        if solver.stochastic != summed and (solver.stochastic or wanted == "sum"):
            noise, other = ("draws", "sum") if solver.stochastic else ("does not draw", "none")
            raise InputError(
                f"`coarse_solver` {solver.name} {noise} noise: give `coarse_noise` {other} with it"
            )
        return solver

    def propagator(self, fine: Propagator, noise: StepNoise) -> Propagator:
        """Make G of F: the same slices in fewer steps.

        Raises
        ------
        InputError
            If there is no such solver, or if it can't walk the grid.
        """
        grid = fine.grid.coarsened(self.steps)
        coarse = Propagator(self.choose(fine.solver), grid, fine.schedule, noise)
        coarse = replace(coarse, noise=cache(partial(coarse_noise, fine, coarse, noise)))
        try_walk(coarse, "coarse")
        return coarse


def coarse_noise(fine: Propagator, coarse: Propagator, noise: StepNoise, j: int) -> Tensor:
    """Return the noise (S, *shape) of coarse step ``j``.

    It moves the state by as much as the noises of the fine steps over the same levels do together.
    """
    (own,) = noise_weights(coarse, [j])
    if own == 0:
        return noise.summed([], [])
    first, end = (fine.grid.levels.index(level) for level in coarse.grid.levels[j : j + 2])
    steps = range(first, end)
    return noise.summed(steps, [weight / own for weight in noise_weights(fine, steps)])
