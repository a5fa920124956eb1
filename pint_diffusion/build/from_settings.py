"""From the settings of a command to what is asked for, in objects."""

from __future__ import annotations

from pint_diffusion.build.plan import Plan, Sampling, make_plan
from pint_diffusion.grid import Schedule, Spacing, TimeGrid, read_grid
from pint_diffusion.methods.method import Method
from pint_diffusion.models import load_denoiser
from pint_diffusion.models.conditional import condition
from pint_diffusion.models.denoiser import Denoiser, schedule_of
from pint_diffusion.runtime.device import bind_device, check_dtype
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.common import OfNetwork, OfSpacing
from pint_diffusion.settings.run import SamplingSettings, Settings


def plan_of(settings: Settings, world: World, denoiser: Denoiser | None = None) -> Plan:
    """Build the problem of a run from its settings, see `sampling_of` and `make_plan`."""
    return make_plan(sampling_of(settings, settings.method, world, denoiser), world.size)


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
