"""Settings of ``pint-diffusion compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from pint_diffusion.methods.method import Sliced
from pint_diffusion.settings.flags import FILES
from pint_diffusion.settings.run import SamplingSettings


class Compare(SamplingSettings):
    """Compare all methods on one network, solver, grid and seed."""

    name: ClassVar[str] = "compare"
    group: ClassVar[str] = "methods"

    methods: tuple[str, ...] | None = Field(
        None,
        description="what to compare, as named in the table; everything if not given",
    )
    target: float = Field(
        1e-3,
        gt=0,
        allow_inf_nan=False,
        description="relative L2 error against the sequential samples, to which the methods are "
        "also tuned",
    )
    devices: tuple[PositiveInt, ...] = Field(
        (4, 8, 32),
        description="device counts: windows of these sizes, and times on so many",
    )
    slices: PositiveInt | None = Sliced.model_fields["slices"]  # type: ignore[assignment]
    bounds: tuple[int, ...] | None = Sliced.model_fields["bounds"]  # type: ignore[assignment]
    slicing: Literal["even", "logsnr", "ou"] = Sliced.model_fields["slicing"]  # type: ignore[assignment]
    out: Path = Field(
        Path("pint_compare"),
        json_schema_extra=FILES,
        description="folder for the table and the figure",
    )

    @property
    def division(self) -> dict[str, Any]:
        """Options of the methods that have slices."""
        return {"slices": self.slices, "bounds": self.bounds, "slicing": self.slicing}
