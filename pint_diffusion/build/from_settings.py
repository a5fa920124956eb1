"""From the settings of the command to what is asked for, in objects."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pint_diffusion.build.coarse import Coarse
from pint_diffusion.build.grid import DEFAULT_STEPS
from pint_diffusion.build.plan import Plan, Sampling, make_plan
from pint_diffusion.errors import InputError
from pint_diffusion.grid import Schedule, Spacing, TimeGrid, read_grid
from pint_diffusion.methods import METHODS
from pint_diffusion.methods.method import Method
from pint_diffusion.models import load_denoiser
from pint_diffusion.models.conditional import Conditioned, condition
from pint_diffusion.models.denoiser import Denoiser, schedule_of
from pint_diffusion.models.sources import BUNDLED, GIVEN
from pint_diffusion.runtime.device import bind_device, check_dtype
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.grid import GridSettings
from pint_diffusion.settings.run import Settings
from pint_diffusion.solvers import SOLVERS
from pint_diffusion.solvers.langevin import Corrector
from pint_diffusion.solvers.solver import Solver


def plan_of(settings: Settings, world: World, denoiser: Denoiser | None = None) -> Plan:
    """Build the problem of a run from its settings, see `sampling_of` and `make_plan`."""
    return make_plan(sampling_of(settings, world, denoiser), world.size)


def sampling_of(settings: Settings, world: World, denoiser: Denoiser | None = None) -> Sampling:
    """Turn settings into objects: load the networks, read the grid file.

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
        If a file can't be used, or the device or an option is not there.
    """
    device = bind_device(settings.device, world.local_rank)
    dtype = check_dtype(settings.dtype, device)
    network = load_denoiser(settings.model, device, dtype) if denoiser is None else denoiser
    network = with_classes(network, settings)
    method, other = method_of(settings), None
    if settings.coarse_model is not None and method.uses_coarse:
        other = load_denoiser(settings.coarse_model, device, dtype)
        if getattr(other, "classes", None) is not None:
            other = with_classes(other, settings)
    coarse = settings.coarse_solver
    grid = grid_in_file(settings, schedule_of(network))
    return Sampling(
        network=network,
        method=method,
        solver=solver_of(settings),
        coarse=Coarse(
            solver=None if coarse is None else find_solver(coarse)(),
            steps=settings.coarse_steps,
            noise=settings.coarse_noise,
            network=other,
        ),
        corrector=Corrector(
            steps=settings.corrector_steps,
            length=settings.corrector_length,
            friction=settings.corrector_friction,
        ),
        steps=steps_of(settings),
        spacing=spacing_of(settings),
        grid=grid,
        samples=settings.samples,
        seed=settings.seed,
        batching=settings.batching,
        device=device,
        dtype=dtype,
    )


def grid_in_file(settings: Settings, schedule: Schedule) -> TimeGrid | None:
    """Read the grid file of a run, if it has one; without slices in it there is one."""
    if settings.grid is None:
        return None
    levels, bounds = read_grid(settings.grid, schedule)
    return TimeGrid(levels, bounds or (0, len(levels) - 1))


def steps_of(settings: Settings) -> int | None:
    """Return N as far as the settings name it; a grid file has its own."""
    named = settings.grid is None or "steps" in settings.model_fields_set
    return settings.steps if named else None


def method_of(settings: Settings) -> Method:
    """Return the method of a run with its options."""
    kind = METHODS[settings.method]
    shared: dict[str, Any] = {
        "slices": settings.slices,
        "bounds": settings.bounds,
        "slicing": settings.slicing,
    }
    shared |= {"tolerance": settings.tolerance, "max_iterations": settings.max_iterations}
    shared |= {"placement": settings.placement}
    known = {k: v for k, v in shared.items() if k in kind.stated() and v is not None}
    return kind(**known, **settings.method_options)


def solver_of(settings: Settings) -> Solver:
    """Return the solver of a run with its options."""
    kind, options = find_solver(settings.solver), settings.solver_options
    if settings.history == "restart":
        options = options | {"carry": False}
    return kind(**options)


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


def find_solver(name: str) -> type[Solver]:
    """Return the solver with a name, or say which there are."""
    if name not in SOLVERS:
        raise InputError(f"unknown solver {name!r}: it is one of {', '.join(SOLVERS)}")
    return SOLVERS[name]


def spacing_of(settings: Settings | GridSettings, name: str | None = None) -> Spacing:
    """Take the options of a spacing from settings, and its name if none is given."""
    return Spacing(
        name or settings.spacing,
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
    objects = asked.noise is not None or asked.grid is not None or asked.coarse.network is not None
    source = None if objects else getattr(network, "source", None)
    model = f"{GIVEN}{type(network).__name__}" if source is None else source
    options = {**asked.method.changed, **asked.solver.changed}
    if options.pop("carry", True) is False:
        options["history"] = "restart"
    spaced = {one.name: getattr(spacing, one.name) for one in fields(spacing)}
    coarse, corrector = asked.coarse, asked.corrector
    return Settings(
        model=None if model == str(BUNDLED) else model,
        steps=asked.steps or DEFAULT_STEPS,
        **{"spacing" if name == "name" else name: value for name, value in spaced.items()},
        samples=asked.samples,
        seed=asked.seed,
        method=asked.method.name,
        solver=asked.solver.name,
        coarse_solver=None if coarse.solver is None else coarse.solver.name,
        coarse_steps=coarse.steps,
        coarse_noise=coarse.noise,
        corrector_steps=corrector.steps,
        corrector_length=corrector.length,
        corrector_friction=corrector.friction,
        batching=asked.batching,
        dtype=str(asked.dtype).removeprefix("torch."),
        device=asked.device.type,
        **given,
        **options,
    )
