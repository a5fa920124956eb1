"""Settings of ``pint-diffusion compare``; imports no torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt
from pydantic_settings import SettingsConfigDict

from pint_diffusion.settings.run import Settings


class Compare(Settings):
    """Compare all methods on one network, solver, grid and seed; flags of ``sample`` say which."""

    model_config = SettingsConfigDict(cli_prog_name="pint-diffusion compare")

    methods: tuple[str, ...] | None = Field(
        None, description="what to compare, as named in the table; everything if not given"
    )
    target: float = Field(
        1e-3,
        gt=0,
        allow_inf_nan=False,
        description="relative L2 error against the sequential samples, to which the methods are "
        "also tuned",
    )
    devices: tuple[PositiveInt, ...] = Field(
        (4, 8, 32), description="device counts: windows of these sizes, and times on so many"
    )
    out: Path = Field(Path("pint_compare"), description="folder for the table and the figure")
