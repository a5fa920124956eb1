"""Settings of ``pint-diffusion export``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pint_diffusion.settings.inspect import Inspect
from pint_diffusion.settings.reading import CommandSettings


class Export(CommandSettings):
    """Draw the pictures of a finished run again, or write its events as a trace."""

    name: ClassVar[str] = "export"

    run: Path = Inspect.model_fields["run"]  # type: ignore[assignment]
    out: Path | None = Field(None, description="folder of the pictures; the run's if not given")
    trace: Path | None = Field(
        None,
        description="JSON file to write the events to, for ui.perfetto.dev or chrome://tracing, "
        "instead of the pictures",
    )
