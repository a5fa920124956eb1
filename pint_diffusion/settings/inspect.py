"""Settings of ``pint-diffusion inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pint_diffusion.settings.reading import CommandSettings


class Inspect(CommandSettings):
    """Say what is in the folder of a run, whatever became of it, and whether it is whole."""

    name: ClassVar[str] = "inspect"

    run: Path = Field(description="folder of the run", json_schema_extra={"by_place": True})
