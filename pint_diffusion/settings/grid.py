"""Settings of ``pint-diffusion grid``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from pint_diffusion.settings.reading import FromCommandLine
from pint_diffusion.settings.run import Settings, SpacingName


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
