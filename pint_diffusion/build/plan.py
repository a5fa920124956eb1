"""From what is asked for, in objects, to what a rank needs to take part; nothing is sent."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from pint_diffusion.build.coarse import Coarse
from pint_diffusion.build.guess import trajectory
from pint_diffusion.build.sizes import refuse_large_states
from pint_diffusion.build.time_grid import make_grid, refuse_too_many
from pint_diffusion.errors import InputError
from pint_diffusion.grid import Schedule, Spacing, TimeGrid
from pint_diffusion.methods import Parareal
from pint_diffusion.methods.method import Method
from pint_diffusion.methods.problem import Problem
from pint_diffusion.models.denoiser import Denoiser, output_shape, schedule_of
from pint_diffusion.numerics.convergence import StopRule
from pint_diffusion.numerics.noise import StepNoise, initial_noise
from pint_diffusion.runtime.evaluator import Evaluator
from pint_diffusion.runtime.world import World
from pint_diffusion.solvers import DDIM, Propagator, Solver
from pint_diffusion.solvers.langevin import Corrector
from pint_diffusion.solvers.linear import try_walk

LOG = logging.getLogger(__name__)

NOISE_BYTES = 2**28
"""Noise of fine steps that a rank keeps for the next iteration, rather than drawing it again."""

Batching = Literal["auto", "off"] | int


@dataclass(frozen=True)
class Sampling:
    """What is asked for, in objects.

    Attributes
    ----------
    network : Denoiser
        The network of the fine steps.
    method : Method
        Solves the problem.
    solver : Solver
        Makes the fine steps.
    coarse : Coarse
        How coarse solves are made, for a method that makes them.
    corrector : Corrector
        Langevin steps at slice boundaries.
    steps : int, optional
        N; see `make_grid`.
    spacing : Spacing
        Where the noise levels lie.
    grid : TimeGrid, optional
        Instead of steps and spacing.
    samples, seed : int
        S, and the seed of all noise.
    noise : Tensor, shape (S, *shape), optional
        Pure noise to begin with, instead of what the seed gives.
    batching : {"auto", "off"} or int
        Evaluations in one network call: all that are ready, one, or at most so many.
    device : torch.device
        Where this rank computes.
    dtype : torch.dtype
        Of the network. States are in float64 if it is float64, else in float32.
    """

    network: Denoiser
    method: Method = field(default_factory=Parareal)
    solver: Solver = field(default_factory=DDIM)
    coarse: Coarse = field(default_factory=Coarse)
    corrector: Corrector = field(default_factory=Corrector)
    steps: int | None = None
    spacing: Spacing = field(default_factory=Spacing)
    grid: TimeGrid | None = None
    samples: int = 1
    seed: int = 0
    noise: Tensor | None = None
    batching: Batching = "auto"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    @property
    def state_dtype(self) -> torch.dtype:
        """Dtype of the states."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Plan:
    """Everything a rank needs to take part in a run.

    Attributes
    ----------
    problem : Problem
        What is solved.
    evaluators : list of Evaluator
        The networks on this rank's device: the fine one, and the coarse one if it is another.
    method : Method
        What solves it, with its options.
    batch_limit : int or None
        Most evaluations in one network call.
    asked : Sampling
        What was asked for.
    """

    problem: Problem
    evaluators: list[Evaluator]
    method: Method
    batch_limit: int | None
    asked: Sampling


def make_plan(asked: Sampling, world: World) -> Plan:
    """Make what a rank needs to take part in a run.

    Parameters
    ----------
    asked : Sampling
        The run.
    world : World
        Its processes; nothing is sent.

    Raises
    ------
    InputError
        If the parts do not fit each other, the number of ranks, or the memory that is free.
    """
    network, method, device, ranks = asked.network, asked.method, asked.device, world.size
    schedule = schedule_of(network)
    grid = make_grid(schedule, method, ranks, asked.steps, asked.spacing, asked.grid)
    if asked.corrector.steps:
        if grid.slices == 1:
            raise InputError(
                "`corrector_steps` are made between slices, and there is one slice only: take the "
                "method piadm with more `slices`, or a grid that has slices"
            )
        refuse_too_many(
            "corrector_steps",
            asked.corrector.steps,
            grid.steps + (grid.slices - 1) * asked.corrector.steps,
        )
        grid = grid.corrected(asked.corrector.steps)
    check_levels(grid, network)
    held = method.held_states(grid.steps, grid.slices, ranks, asked.solver.history)
    states = asked.samples, network.shape, asked.state_dtype, device
    refuse_large_states(*states, world, held)
    step_noise = StepNoise(asked.seed, asked.samples, network.shape, asked.state_dtype, device)
    fine = fine_propagator(asked, grid, schedule, step_noise)
    check_variance(fine, network, "the network")
    evaluators = [Evaluator(network, grid, device, asked.dtype, asked.state_dtype)]
    coarse = fine
    if method.uses_coarse:
        coarse = asked.coarse.propagator(fine, step_noise)
        if asked.coarse.model is not None:
            evaluators.append(coarse_evaluator(asked, coarse))
        else:
            check_variance(coarse, network, "the network")
    enough = method.enough_iterations(grid)
    problem = Problem(
        noise=first_states(asked).to(device),
        fine=fine,
        coarse=coarse,
        coarse_network=len(evaluators) - 1,
        max_iterations=min(method.max_iterations or enough, enough),
        stop_rule=StopRule(method.tolerance, network.data_range, fine.complete_from()),
        ranks=ranks,
        tolerance=method.tolerance,
        columns=method.columns(grid),
        kind=network.prediction,
        output_shape=output_shape(network),
    )
    method.check(problem)
    if method.begins_on is not None:
        problem = replace(problem, guess=trajectory(problem, method.begins_on))
    limit = {"auto": None, "off": 1}.get(str(asked.batching), asked.batching)
    return Plan(problem, evaluators, method, limit, asked)  # type: ignore[arg-type]


def tell_doubt(plan: Plan, rank: int) -> None:
    """Log on rank 0 why the run can't be expected to be faster than the sequential sampler."""
    doubt = plan.method.doubt(plan.problem)
    if doubt is not None and rank == 0:
        LOG.warning(doubt, extra={"rank": 0})


def fine_propagator(
    asked: Sampling, grid: TimeGrid, schedule: Schedule, noise: StepNoise
) -> Propagator:
    """Make F.

    Raises
    ------
    InputError
        If the solver can't walk the grid.
    """
    solver = asked.solver
    if asked.corrector.steps:
        solver = asked.corrector.corrected(solver)
    drawn = solver.stochastic or asked.corrector.steps
    fits = max(1, NOISE_BYTES // noise.bytes)
    fine = Propagator(solver, grid, schedule, lru_cache(fits)(noise) if drawn else noise)
    try_walk(fine, "fine")
    return fine


def first_states(asked: Sampling) -> Tensor:
    """Return the states (S, *shape) with which the walk begins.

    Raises
    ------
    InputError
        If those given have another shape.
    """
    shape = (asked.samples, *asked.network.shape)
    if asked.noise is None:
        return initial_noise(asked.seed, range(asked.samples), shape[1:], asked.state_dtype)
    if tuple(asked.noise.shape) != shape:
        raise InputError(
            f"`noise` has shape {tuple(asked.noise.shape)}, but the samples have {shape}: the two "
            "must be the same"
        )
    return asked.noise.detach().to(asked.state_dtype)


def coarse_evaluator(asked: Sampling, coarse: Propagator) -> Evaluator:
    """Make the evaluator of another network for the coarse steps.

    Raises
    ------
    InputError
        If the network does not fit the fine one or the grid.
    """
    network, fine = asked.coarse.model, asked.network
    if network.shape != fine.shape:
        raise InputError(
            f"`coarse_model` has samples of shape {network.shape} and the network of the fine "
            f"steps of shape {fine.shape}: they must be the same"
        )
    schedule = schedule_of(network)
    try:
        schedule.timestep([level.alpha_bar for level in coarse.grid.levels])
    except InputError as error:
        raise InputError(f"`coarse_model` can't be told a level of the grid: {error}") from None
    check_variance(coarse, network, "the coarse network")
    grid, device = coarse.grid, asked.device
    return Evaluator(network, grid, device, asked.dtype, asked.state_dtype, schedule=schedule)


def check_levels(grid: TimeGrid, denoiser: Denoiser) -> None:
    """Refuse to start at pure noise with a network that says nothing about x0 there."""
    if grid.levels[0].alpha_bar == 0 and denoiser.prediction in ("epsilon", "denoised"):
        raise InputError(
            f"the grid starts at alpha_bar = 0, where a network that predicts "
            f"{denoiser.prediction} can't be used: start at a finite noise level"
        )


def check_variance(propagator: Propagator, denoiser: Denoiser, which: str) -> None:
    """Refuse to take the variance of a step from a network that has learned none."""
    wanted = getattr(propagator.solver, "variance", None) == "learned_range"
    if wanted and not getattr(denoiser, "learns_variance", False):
        raise InputError(
            f"`variance` learned_range needs a network that has learned its variance, and {which} "
            "has not: use fixed_small or fixed_large"
        )
