"""Settings of ``pint-diffusion grid``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from pint_diffusion.build.time_grid import MOST_STEPS
from pint_diffusion.errors import InputError
from pint_diffusion.grid.file import MOST_LEVELS
from pint_diffusion.settings.flags import FILES, GRID
from pint_diffusion.settings.network_and_levels import OfNetwork, OfSpacing, SpacingName


class GridSettings(OfNetwork, OfSpacing):
    """Compute noise levels and slice boundaries and store them in a grid file."""

    name: ClassVar[str] = "grid"

    file: Path = Field(
        description="grid file to write, YAML", json_schema_extra=FILES | {"by_place": True}
    )
    steps: PositiveInt = Field(
        20, lt=MOST_LEVELS, json_schema_extra=GRID, description="steps N from noise to data"
    )
    spacing: Literal["gits", SpacingName] = Field(
        "gits",
        json_schema_extra=GRID,
        description="where the levels lie; gits: chosen out of a teacher walk's",
    )
    teacher_steps: PositiveInt = Field(
        60, le=MOST_STEPS, json_schema_extra=GRID, description="steps of the teacher walk of gits"
    )
    teacher_spacing: SpacingName = Field(
        "karras", json_schema_extra=GRID, description="where the levels of the teacher walk lie"
    )
    samples: PositiveInt = Field(4, description="samples S of the walks that measure costs")
    slices: PositiveInt | None = Field(
        None,
        json_schema_extra=GRID,
        description="time slices M; no boundaries in the file if not given",
    )
    slicing: Literal["even", "logsnr", "ou", "cost"] = Field(
        "even",
        json_schema_extra=GRID,
        description="what slices have alike, or cost: their one-step errors have the least sum",
    )
    force: bool = Field(False, json_schema_extra=FILES, description="overwrite the file")

    def model_post_init(self, context: object) -> None:
        """Refuse settings that contradict one another."""
        if self.spacing == "gits" and self.steps > self.teacher_steps:
            raise InputError(
                f"`steps` {self.steps} can't be chosen out of `teacher_steps` "
                f"{self.teacher_steps}: raise the latter"
            )
        if self.slices is None and self.slicing != "even":
            raise InputError(f"`slicing` {self.slicing} needs `slices`, the number of slices")
        if self.slices is not None and self.slices > self.steps:
            raise InputError(
                f"`steps` {self.steps} is less than `slices` {self.slices}: every slice needs at "
                "least one step, so raise `steps` or lower `slices`"
            )
