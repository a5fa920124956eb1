"""Settings of the network and of the noise levels, which several commands have."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from pint_diffusion.models.kinds import forms
from pint_diffusion.options import FREE
from pint_diffusion.settings.flags import GRID, NETWORK, RUN
from pint_diffusion.settings.reading import CommandSettings

SPACING_OPTIONS = (
    *("spacing", "whole_timesteps", "sigma_min", "sigma_max", "rho", "shift", "final"),
)

SpacingName: TypeAlias = Literal[
    "trailing",
    "leading",
    "linspace",
    "dpm_leading",
    "dpm_linspace",
    "karras",
    "exponential",
    "logsnr",
    "beta",
    "ou",
]


class OfNetwork(CommandSettings):
    """The network, and what it is asked."""

    model: str | None = Field(
        None,
        json_schema_extra=NETWORK,
        description=f"network: {forms()}; the bundled network if not given",
    )
    labels: tuple[int, ...] | None = Field(
        None,
        json_schema_extra=NETWORK,
        description="classes of a class-conditional network, which the samples take in turn; all "
        "classes if not given",
    )
    guidance: float | None = Field(
        None,
        allow_inf_nan=False,
        json_schema_extra=NETWORK,
        description="weight of classifier-free guidance: 1 is conditional, more is stronger; none "
        "if not given",
    )
    guidance_rescale: float = Field(
        0.0,
        ge=0,
        le=1,
        json_schema_extra=NETWORK,
        description="share in which guided outputs are scaled to the spread of conditional ones",
    )
    null_class: int | None = Field(
        None,
        ge=0,
        json_schema_extra=NETWORK,
        description="label of no class, for guidance; the network's own if not given",
    )
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = Field(
        "float32",
        json_schema_extra=NETWORK,
        description="dtype of the network; states are kept in float32 or float64",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", json_schema_extra=RUN | FREE, description="where ranks compute"
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**64,
        json_schema_extra=RUN,
        description="seed of the noise, with the sample's number",
    )


class OfSpacing(CommandSettings):
    """Where the noise levels lie."""

    whole_timesteps: bool = Field(
        False,
        json_schema_extra=GRID,
        description="tell the network whole training timesteps only, as DDIM, DDPM and DPM-"
        "Solver of diffusers do",
    )
    sigma_min: float | None = Field(
        None,
        json_schema_extra=GRID,
        description="last sigma before the end of karras, exponential, logsnr, beta and ou",
    )
    sigma_max: float | None = Field(
        None, json_schema_extra=GRID, description="first sigma of a spacing in sigma"
    )
    rho: float = Field(7.0, ge=1, le=1000, json_schema_extra=GRID, description="exponent of karras")
    shift: float = Field(
        1.0,
        ge=1e-3,
        le=1e3,
        json_schema_extra=GRID,
        description="shift of a flow-matching network's noise levels",
    )
    final: Literal["clean", "least"] = Field(
        "clean",
        json_schema_extra=GRID,
        description="end in clean data, or at the least noisy trained level",
    )
