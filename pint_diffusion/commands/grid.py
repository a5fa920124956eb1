"""``pint-diffusion grid``: compute noise levels and slice boundaries and store them in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pint_diffusion
from pint_diffusion.build.from_settings import spacing_of, with_classes
from pint_diffusion.build.sizes import refuse_large_states
from pint_diffusion.errors import InputError
from pint_diffusion.grid import SLICINGS, TimeGrid, write_grid
from pint_diffusion.grid.gits import best_path
from pint_diffusion.memory import refuse_more_than_free, state_size
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.settings.grid import GridSettings
from pint_diffusion.small_file import refuse_no_place_for_file


def make_grid_file(settings: GridSettings) -> TimeGrid:
    """Compute a grid and write it to ``settings.file``.

    Raises
    ------
    InputError
        If the settings do not fit the model or the device, or the file can't be written.
    NetworkError
        If the network returns NaN or the wrong shape.
    """
    import torch

    from pint_diffusion.grid.teacher import measured_costs
    from pint_diffusion.models import load_denoiser
    from pint_diffusion.models.denoiser import schedule_of
    from pint_diffusion.numerics.noise import initial_noise
    from pint_diffusion.runtime.device import bind_device, check_dtype
    from pint_diffusion.runtime.evaluator import Evaluator

    check_file(settings.file, settings.force)
    device = bind_device(settings.device, 0)
    dtype = check_dtype(settings.dtype, device)
    state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    network = load_denoiser(settings.model, device, dtype)
    refuse_large_states(settings.samples, network.shape, state_dtype, device, LocalWorld())
    for option, steps in measured_walks(settings).items():
        refuse_more_than_free(
            f"`{option}` {steps} with {settings.samples} samples",
            8 * (3 * (steps + 1) ** 2 + 2 * steps * state_size(settings.samples, network.shape, 1)),
            torch.device("cpu"),
            "take fewer",
        )
    denoiser = with_classes(network, settings, settings.samples)
    schedule = schedule_of(denoiser)
    noise = initial_noise(settings.seed, range(settings.samples), denoiser.shape, state_dtype)

    def costs(levels: Any) -> Any:
        walk = TimeGrid(levels, (0, len(levels) - 1))
        evaluator = Evaluator(denoiser, walk, device, dtype, state_dtype)
        return measured_costs(evaluator, noise.to(device), levels)

    if settings.spacing == "gits":
        teacher = spacing_of(settings, settings.teacher_spacing)
        fine = teacher.levels(schedule, settings.teacher_steps)
        levels = tuple(fine[i] for i in best_path(costs(fine), settings.steps))
    else:
        levels = spacing_of(settings, settings.spacing).levels(schedule, settings.steps)
    bounds = None
    if settings.slices is not None and settings.slicing == "cost":
        bounds = best_path(costs(levels), settings.slices, factor=1)
    elif settings.slices is not None:
        bounds = SLICINGS[settings.slicing](levels, settings.slices)
    write_grid(settings.file, levels, bounds, provenance(settings))
    return TimeGrid(levels, bounds or (0, settings.steps))


def measured_walks(settings: GridSettings) -> dict[str, int]:
    """Return the steps of the walks whose jump costs are measured, by the options that say them."""
    walks = {"teacher_steps": settings.teacher_steps} if settings.spacing == "gits" else {}
    if settings.slices is not None and settings.slicing == "cost":
        walks["steps"] = settings.steps
    return walks


def check_file(path: Path, force: bool) -> None:
    """Refuse a file that is there, or that has no folder to be in, before anything is computed."""
    try:
        refuse_no_place_for_file(path)
    except ValueError as error:
        raise InputError(f"{path} can't be written: {error}") from None
    if path.exists() and not force:
        raise InputError(f"{path} exists: give another name, or `force` to overwrite it")


def provenance(settings: GridSettings) -> list[str]:
    """Say how a grid was made, as lines of a comment."""
    values = {
        k: v for k, v in settings.told().items() if k not in ("file", "force") and v is not None
    }
    made_by = f"pint-diffusion {pint_diffusion.__version__} grid"
    return [made_by, *(f"{key}: {value}" for key, value in values.items())]


def grid_table(grid: TimeGrid) -> str:
    """Length and ends of the slices of a grid, a line each."""
    lines = ["slice  steps  sigma"]
    for n in range(grid.slices):
        levels = grid.fine(n)
        ends = f"{levels[0].sigma:.4g} to {levels[-1].sigma:.4g}"
        lines.append(f"{n:5}  {len(levels) - 1:5}  {ends}")
    return "\n".join(lines)
