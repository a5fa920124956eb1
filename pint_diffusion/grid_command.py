"""``pint-diffusion grid``: compute noise levels and slice boundaries and store them in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

import pint_diffusion
from pint_diffusion.config import Settings, SpacingName
from pint_diffusion.errors import InputError
from pint_diffusion.flags import FromCommandLine
from pint_diffusion.grid import SLICINGS, TimeGrid, spacing_of, write_grid
from pint_diffusion.grid.gits import best_path


def _same(name: str) -> Any:
    """The field of `sample`, with default and description."""
    return Settings.model_fields[name]


class GridSettings(FromCommandLine):
    """Compute noise levels and slice boundaries and store them in a grid file."""

    model_config = SettingsConfigDict(cli_prog_name="pint-diffusion grid")

    file: CliPositionalArg[Path] = Field(description="grid file to write, YAML")
    model: str | None = _same("model")
    labels: tuple[int, ...] | None = _same("labels")
    guidance: float | None = _same("guidance")
    guidance_rescale: float = _same("guidance_rescale")
    null_class: int | None = _same("null_class")
    steps: PositiveInt = Field(20, le=1_000_000, description="steps N from noise to data")
    spacing: Literal["gits", SpacingName] = Field(
        "gits", description="where the levels lie; gits: chosen out of a teacher walk's"
    )
    teacher_steps: PositiveInt = Field(
        60, le=1_000_000, description="steps of the teacher walk of gits"
    )
    teacher_spacing: SpacingName = Field(
        "karras", description="where the levels of the teacher walk lie"
    )
    samples: PositiveInt = Field(4, description="samples S of the walks that measure costs")
    seed: int = _same("seed")
    whole_timesteps: bool = _same("whole_timesteps")
    sigma_min: float | None = _same("sigma_min")
    sigma_max: float | None = _same("sigma_max")
    rho: float = _same("rho")
    shift: float = _same("shift")
    final: Literal["clean", "least"] = _same("final")
    slices: PositiveInt | None = Field(
        None, description="time slices M; no boundaries in the file if not given"
    )
    slicing: Literal["even", "logsnr", "ou", "cost"] = Field(
        "even",
        description="what slices have alike, or cost: their one-step errors have the least sum",
    )
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = _same("dtype")
    device: Literal["auto", "cpu", "cuda"] = _same("device")
    force: bool = Field(False, description="overwrite the file")

    @model_validator(mode="after")
    def _fits(self) -> GridSettings:
        if self.spacing == "gits" and self.steps > self.teacher_steps:
            raise ValueError(
                f"--steps {self.steps} can't be chosen out of --teacher-steps "
                f"{self.teacher_steps}: raise the latter"
            )
        if self.slices is None and self.slicing != "even":
            raise ValueError(f"--slicing {self.slicing} needs --slices, the number of slices")
        if self.slices is not None and self.slices > self.steps:
            raise ValueError(
                f"--steps {self.steps} is less than --slices {self.slices}: every slice needs at "
                "least one step, so raise --steps or lower --slices"
            )
        return self


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

    from pint_diffusion.models import load_denoiser
    from pint_diffusion.models.conditional import condition
    from pint_diffusion.models.denoiser import schedule_of
    from pint_diffusion.noise import initial_noise
    from pint_diffusion.runtime.device import bind_device, check_dtype
    from pint_diffusion.runtime.evaluator import Evaluator
    from pint_diffusion.teacher import measured_costs

    check_file(settings.file, settings.force)
    device = bind_device(settings.device, 0)
    dtype = check_dtype(settings.dtype, device)
    state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    denoiser = condition(
        load_denoiser(settings.model, device, dtype),
        settings.labels,
        settings.samples,
        settings.guidance,
        settings.guidance_rescale,
        settings.null_class,
    )
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
        levels = spacing_of(settings).levels(schedule, settings.steps)
    bounds = None
    if settings.slices is not None and settings.slicing == "cost":
        bounds = best_path(costs(levels), settings.slices, factor=1)
    elif settings.slices is not None:
        bounds = SLICINGS[settings.slicing](levels, settings.slices)
    write_grid(settings.file, levels, bounds, provenance(settings))
    return TimeGrid(levels, bounds or (0, settings.steps))


def check_file(path: Path, force: bool) -> None:
    """Refuse a file that is there, or that has no folder to be in, before anything is computed."""
    if path.exists() and not force:
        raise InputError(f"{path} exists: give another name, or --force to overwrite it")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path} can't be written: give a file in a folder that exists")


def provenance(settings: GridSettings) -> list[str]:
    """Say how a grid was made, as lines of a comment."""
    values = settings.model_dump(mode="json", exclude={"file", "force"}, exclude_none=True)
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
