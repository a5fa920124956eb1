"""The flags of ``pint-diffusion check``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from pint_diffusion.settings.network_and_levels import OfNetwork
from pint_diffusion.settings.reading import CommandSettings


class Check(CommandSettings):
    """Say what MPI, launcher, devices, network, clocks and files are, and what is wrong."""

    name: ClassVar[str] = "check"

    out: Path = Field(Path("."), description="folder whose file system is tested")
    model: str | None = Field(
        None, description="network to load, named as for sample; none is loaded if not given"
    )
    samples: PositiveInt = Field(16, description="samples S whose memory is counted")
    slices: PositiveInt | None = Field(
        None, description="time slices M whose memory is counted; the number of ranks if not given"
    )
    device: Literal["auto", "cpu", "cuda"] = OfNetwork.model_fields["device"]  # type: ignore[assignment]
