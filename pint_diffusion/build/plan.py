"""From settings to a plan: the problem, the networks and the method of a run; nothing is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pint_diffusion.settings.run import Settings
from pint_diffusion.numerics.convergence import Outcome, StopRule
from pint_diffusion.errors import InputError, TransportError
from pint_diffusion.grid import Schedule, TimeGrid
from pint_diffusion.build.grid import grid_of
from pint_diffusion.methods import METHODS
from pint_diffusion.methods.method import Method
from pint_diffusion.methods.problem import Problem
from pint_diffusion.models import load_denoiser
from pint_diffusion.models.conditional import condition
from pint_diffusion.models.denoiser import Denoiser, output_shape, schedule_of
from pint_diffusion.numerics.noise import StepNoise, initial_noise
from pint_diffusion.runtime.device import bind_device, check_dtype
from pint_diffusion.runtime.evaluator import Evaluator
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.requests import Ask, Clock
from pint_diffusion.runtime.scheduler import Decided, Record, Runtime
from pint_diffusion.runtime.world import World
from pint_diffusion.solvers import Propagator
from pint_diffusion.build.propagators import make_propagators

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
    patience : float or None
        Seconds of silence after which a rank is taken for lost; None: never.
    """

    problem: Problem
    evaluators: list[Evaluator]
    method: Method
    batch_limit: int | None
    patience: float | None


def make_plan(settings: Settings, world: World, denoiser: Denoiser | None = None) -> Plan:
    """Build the problem of a run; nothing is sent.

    Parameters
    ----------
    settings : Settings
        The run.
    world : World
        The processes of the run.
    denoiser : Denoiser, optional
        The network, instead of ``settings.model``.

    Raises
    ------
    InputError
        If the settings do not fit each other, the model, the devices or the number of ranks.
    """
    device = bind_device(settings.device, world.local_rank)
    dtype = check_dtype(settings.dtype, device)
    state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    network = denoiser or load_denoiser(settings.model, device, dtype)
    denoiser = with_classes(network, settings)
    schedule = schedule_of(denoiser)
    named = METHODS[settings.method]
    grid = grid_of(settings, schedule, world.size if named.sliced else 1)
    if settings.corrector_steps:
        grid = grid.corrected(settings.corrector_steps)
    check_levels(grid, denoiser)
    noise = StepNoise(settings.seed, settings.samples, denoiser.shape, state_dtype, device)
    fine, coarse = make_propagators(settings, schedule, grid, noise)
    check_variance(fine, denoiser, "the network")
    method = named.configured(settings.method, settings.method_options)
    tolerance = method.tolerance if settings.tolerance is None else settings.tolerance
    most = method.most(grid)
    evaluators = [Evaluator(denoiser, grid, device, dtype, state_dtype)]
    if settings.coarse_model is not None and settings.method != "sequential":
        other, theirs = load_coarse(settings, device, dtype, denoiser, coarse)
        evaluators.append(Evaluator(other, grid, device, dtype, state_dtype, schedule=theirs))
    else:
        check_variance(coarse, denoiser, "the network")
    start = initial_noise(settings.seed, range(settings.samples), denoiser.shape, state_dtype)
    problem = Problem(
        noise=start.to(device),
        fine=fine,
        coarse=coarse,
        coarse_network=len(evaluators) - 1,
        placement=settings.placement,
        max_iterations=min(settings.max_iterations or most, most),
        stop_rule=StopRule(tolerance, denoiser.data_range, fine.complete_from()),
        ranks=world.size,
        watch=lambda n, k, change: None,
        tolerance=tolerance,
        columns=method.columns(grid, **method.options),
        kind=denoiser.prediction,
        output_shape=output_shape(denoiser),
    )
    method.check(problem, **method.options)
    limits: dict[Literal["auto", "off"] | int, int | None] = {"auto": None, "off": 1}
    return Plan(
        problem,
        evaluators,
        method,
        limits.get(settings.batching, settings.batching),  # type: ignore[arg-type]
        settings.watchdog,
    )


def with_classes(network: Denoiser, settings: Settings) -> Denoiser:
    """Give the samples the classes and the guidance of the settings."""
    return condition(
        network,
        settings.labels,
        settings.samples,
        settings.guidance,
        settings.guidance_rescale,
        settings.null_class,
    )


def check_levels(grid: TimeGrid, denoiser: Denoiser) -> None:
    """Refuse to start at pure noise with a network that says nothing about x0 there."""
    if grid.levels[0].alpha_bar == 0 and denoiser.prediction in ("epsilon", "denoised"):
        raise InputError(
            f"the grid starts at alpha_bar = 0, where a network that predicts "
            f"{denoiser.prediction} can't be used: start at a finite noise level"
        )


def check_variance(propagator: Propagator, denoiser: Denoiser, which: str) -> None:
    """Refuse to take the variance of a step from a network that has learned none."""
    wanted = propagator.solver.options.get("variance") == "learned_range"
    if wanted and not getattr(denoiser, "learns_variance", False):
        raise InputError(
            f"--variance learned_range needs a network that has learned its variance, and {which} "
            "has not: use fixed_small or fixed_large"
        )


def load_coarse(
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
    fine: Denoiser,
    coarse: Propagator,
) -> tuple[Denoiser, Schedule]:
    """Load the network of the coarse steps; return it and its schedule.

    Raises
    ------
    InputError
        If it does not fit the fine one or the grid.
    """
    which = f"--coarse-model {settings.coarse_model}"
    network = load_denoiser(settings.coarse_model, device, dtype)
    if getattr(network, "classes", None) is not None:
        network = with_classes(network, settings)
    if network.shape != fine.shape:
        raise InputError(
            f"{which} has samples of shape {network.shape} and the network of the fine steps of "
            f"shape {fine.shape}: they must be the same"
        )
    schedule = schedule_of(network)
    try:
        schedule.timestep([level.alpha_bar for level in coarse.grid.levels])
    except InputError as error:
        raise InputError(f"{which} can't be told a level of the grid: {error}") from None
    check_variance(coarse, network, which)
    return network, schedule


