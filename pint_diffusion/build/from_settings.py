"""From the settings of a command to what is asked for, in objects."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pint_diffusion.build.plan import Plan, Sampling, make_plan
from pint_diffusion.build.sizes import refuse_large_states
from pint_diffusion.build.time_grid import DEFAULT_STEPS
from pint_diffusion.grid import Schedule, Spacing, TimeGrid, read_grid
from pint_diffusion.methods import METHODS
from pint_diffusion.methods.method import Method
from pint_diffusion.models import load_denoiser
from pint_diffusion.models.conditional import Conditioned, condition
from pint_diffusion.models.denoiser import Denoiser, schedule_of
from pint_diffusion.models.kinds import BUNDLED, GIVEN
from pint_diffusion.runtime.device import bind_device, check_dtype
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.network_and_levels import OfNetwork, OfSpacing
from pint_diffusion.settings.run import SamplingSettings, Settings
from pint_diffusion.solvers import SOLVERS


def plan_of(settings: Settings, world: World, denoiser: Denoiser | None = None) -> Plan:
    """Build the problem of a run from its settings, see `sampling_of` and `make_plan`."""
    return make_plan(sampling_of(settings, settings.method, world, denoiser), world)


def sampling_of(
    settings: SamplingSettings, method: Method, world: World, denoiser: Denoiser | None = None
) -> Sampling:
    """Turn settings into objects: load the networks, read the grid file.

    Parameters
    ----------
    settings : SamplingSettings
        What is sampled.
    method : Method
        Solves the problem.
    world : World
        The processes of the run.
    denoiser : Denoiser, optional
        The network, instead of ``settings.model``.

    Raises
    ------
    InputError
        If a file can't be used, or the device is not there.
    """
    device = bind_device(settings.device, world.local_rank)
    dtype = check_dtype(settings.dtype, device)
    network = load_denoiser(settings.model, device, dtype) if denoiser is None else denoiser
    refuse_large_states(settings.samples, network.shape, dtype, device, world)
    network = with_classes(network, settings, settings.samples)
    coarse = settings.coarse
    if coarse.model is not None:
        other = load_denoiser(coarse.model, device, dtype)
        if getattr(other, "classes", None) is not None:
            other = with_classes(other, settings, settings.samples)
        coarse = coarse.model_copy(update={"model": other})
    return Sampling(
        network=network,
        method=method,
        solver=settings.solver,
        coarse=coarse,
        corrector=settings.corrector,
        steps=settings.given_steps,
        spacing=spacing_of(settings, settings.spacing),
        grid=grid_in_file(settings, schedule_of(network)),
        samples=settings.samples,
        seed=settings.seed,
        batching=settings.batching,
        device=device,
        dtype=dtype,
    )


def grid_in_file(settings: SamplingSettings, schedule: Schedule) -> TimeGrid | None:
    """Read the grid file of a run, if it has one; without slices in it there is one."""
    if settings.grid is None:
        return None
    levels, bounds = read_grid(settings.grid, schedule)
    return TimeGrid(levels, bounds or (0, len(levels) - 1))


def with_classes(network: Denoiser, settings: OfNetwork, samples: int) -> Denoiser:
    """Give the samples the classes and the guidance of the settings."""
    return condition(
        network,
        settings.labels,
        samples,
        settings.guidance,
        settings.guidance_rescale,
        settings.null_class,
    )


def spacing_of(settings: OfSpacing, name: str) -> Spacing:
    """Give a spacing the options of the settings."""
    return Spacing(
        name,
        settings.whole_timesteps,
        settings.sigma_min,
        settings.sigma_max,
        settings.rho,
        settings.shift,
        settings.final,
    )


def settings_of(asked: Sampling) -> Settings:
    """Return the settings of the command that ask for the same, as far as settings can say it.

    The settings of what was given as an object name a model that can't be loaded, so that nobody
    goes on with such a run from the command line.
    """
    network: Any = asked.network
    spacing = asked.spacing
    given: dict[str, Any] = {}
    if isinstance(network, Conditioned):
        given |= {"labels": network.labels.tolist(), "guidance": network.guidance}
        given |= {"guidance_rescale": network.rescale, "null_class": network.null_class}
        network = network.network
    method, solver, coarse = asked.method, asked.solver, asked.coarse
    objects = (
        any(one is not None for one in (asked.noise, asked.grid, coarse.model))
        or METHODS.get(method.name) is not type(method)
        or SOLVERS.get(solver.name) is not type(solver)
    )
    source = None if objects else getattr(network, "source", None)
    model = f"{GIVEN}{type(network).__name__}" if source is None else source
    spaced = {one.name: getattr(spacing, one.name) for one in fields(spacing)}
    if not objects:
        given |= {"method": method, "solver": solver, "coarse": coarse}
    return Settings(
        model=None if model == str(BUNDLED) else model,
        steps=asked.steps or DEFAULT_STEPS,
        **{"spacing" if name == "name" else name: value for name, value in spaced.items()},
        samples=asked.samples,
        seed=asked.seed,
        corrector=asked.corrector,
        batching=asked.batching,
        dtype=str(asked.dtype).removeprefix("torch."),
        device=asked.device.type,
        **given,
    )
