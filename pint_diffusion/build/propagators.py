"""From settings to the two propagators of a run."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache, partial

from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid import Schedule, TimeGrid
from pint_diffusion.numerics.noise import StepNoise
from pint_diffusion.settings.run import Settings
from pint_diffusion.solvers import SOLVERS
from pint_diffusion.solvers.langevin import Corrected
from pint_diffusion.solvers.linear import noise_weights, try_walk
from pint_diffusion.solvers.propagator import Propagator
from pint_diffusion.solvers.solver import Solver

DETERMINISTIC = "ddim"
"""The coarse solver where the fine one can't be it."""

NOISE_BYTES = 2**28
"""Noise of fine steps that a rank keeps for the next iteration, rather than drawing it again."""

DEFAULT_NOISE = "sum"
"""Of the coarse steps of a stochastic solver: what needs fewer iterations, see docs/solvers.md."""


def make_propagators(
    settings: Settings, schedule: Schedule, grid: TimeGrid, noise: StepNoise
) -> tuple[Propagator, Propagator]:
    """Make F and G.

    Parameters
    ----------
    settings : Settings
        The run.
    schedule : Schedule
        Of the fine network.
    grid : TimeGrid
        N steps in M slices.
    noise : StepNoise
        Of the fine steps.

    Raises
    ------
    InputError
        If a solver or an option is unknown, if the coarse solver is none, or if the grid can't be
        walked.
    """
    solver = find_solver(settings.solver).configured(settings.solver, settings.solver_options)
    carry = settings.history == "carry"
    if not carry and not solver.history:
        raise InputError(
            f"--history restart is for multistep solvers, and {settings.solver} carries nothing: "
            "leave it out"
        )
    fits = max(1, NOISE_BYTES // noise.bytes)
    drawn = solver.stochastic or settings.corrector_steps
    kept = lru_cache(fits)(noise) if drawn else noise
    fine = Propagator(solver, grid, schedule, kept, carry, settings.solver)
    if settings.corrector_steps:
        fine = corrected(fine, settings)
    try_walk(fine, "fine")
    if settings.method == "sequential" or settings.corrector_steps:
        return fine, fine
    name, coarse_solver = choose_coarse(settings, solver)
    coarse = Propagator(coarse_solver, grid.coarsened(settings.coarse_steps), schedule, noise)
    coarse = replace(coarse, noise=cache(partial(coarse_noise, fine, coarse, noise)), name=name)
    try_walk(coarse, "coarse")
    return fine, coarse


def corrected(walk: Propagator, settings: Settings) -> Corrected:
    """Return a walk that corrects the state with Langevin steps where its grid stays at a level.

    Raises
    ------
    InputError
        If the solver or the method does not take such steps.
    """
    solver = walk.solver
    if solver.stochastic or solver.history:
        does = "draws noise" if solver.stochastic else "carries a history"
        raise InputError(
            f"--corrector-steps is for deterministic one-step solvers, and --solver "
            f"{settings.solver} {does}: take another, such as ou_ode"
        )
    if settings.method == "parareal":
        raise InputError(
            "--corrector-steps draws noise at slice boundaries, which the coarse solves of "
            "parareal know nothing of: take --method piadm"
        )
    if settings.method in ("paradigms", "parataa", "chords"):
        raise InputError(
            "--corrector-steps carries a velocity from step to step, and --method "
            f"{settings.method} takes steps of one state only: take --method piadm or window"
        )
    return Corrected(
        replace(solver, history=1),
        walk.grid,
        walk.schedule,
        walk.noise,
        True,
        walk.name,
        settings.corrector_length,
        settings.corrector_friction,
    )


def find_solver(name: str) -> Solver:
    """Return the solver with a name, or say which there are."""
    if name not in SOLVERS:
        raise InputError(f"unknown solver {name!r}: it is one of {', '.join(SOLVERS)}")
    return SOLVERS[name]


def choose_coarse(settings: Settings, fine: Solver) -> tuple[str, Solver]:
    """Return name and solver of the coarse steps.

    Raises
    ------
    InputError
        If it carries history, or if its noise does not fit the fine solver's.
    """
    name, wanted = settings.coarse_solver, settings.coarse_noise
    if wanted == "sum" and not fine.stochastic:
        raise InputError(
            f"--coarse-noise sum adds up the noise of the fine steps, but --solver "
            f"{settings.solver} with these options draws none: leave it out"
        )
    summed = fine.stochastic and (wanted or DEFAULT_NOISE) == "sum"
    if name is None:
        cheap = fine.evaluations == 1 and not fine.history
        alike = summed or (cheap and not fine.stochastic)
        name = settings.solver if alike else DETERMINISTIC
    solver = find_solver(name)
    if solver.history:
        legal = ", ".join(key for key, one in SOLVERS.items() if not one.history)
        raise InputError(
            f"--coarse-solver {name} is a multistep solver, and a coarse solve has no steps before "
            f"it: use one of {legal}"
        )
    if name == settings.solver and fine.stochastic == summed:
        solver = fine
    if solver.stochastic and not fine.stochastic:
        raise InputError(
            f"--coarse-solver {name} draws noise, but --solver {settings.solver} with these "
            f"options does not: use a deterministic one, such as {DETERMINISTIC}"
        )
    if solver.stochastic != summed and (solver.stochastic or wanted == "sum"):
        noise, other = ("draws", "sum") if solver.stochastic else ("does not draw", "none")
        raise InputError(
            f"--coarse-solver {name} {noise} noise: give --coarse-noise {other} with it"
        )
    return name, solver


def coarse_noise(fine: Propagator, coarse: Propagator, noise: StepNoise, j: int) -> Tensor:
    """Return the noise (S, *shape) of coarse step ``j``.

    It adds to the state what the noises of the fine steps in it add up to at its end.
    """
    (own,) = noise_weights(coarse, [j])
    if own == 0:
        return noise.summed([], [])
    first, end = (fine.grid.levels.index(level) for level in coarse.grid.levels[j : j + 2])
    steps = range(first, end)
    return noise.summed(steps, [weight / own for weight in noise_weights(fine, steps)])
