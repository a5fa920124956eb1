"""Settings of ``pint-diffusion resume``: those of the run, of which some may change."""

from __future__ import annotations

from typing import ClassVar

from pint_diffusion.settings.flags import Flag, flags_of
from pint_diffusion.settings.help import flags_of_all, render
from pint_diffusion.settings.inspect import Inspect
from pint_diffusion.settings.run import Settings

RUN = Flag("run", ("run",), Inspect.model_fields["run"], "options")
"""The folder, by its place: it comes first, since the run in it says which flags there are."""


class Resume(Settings):
    """Go on with a run that was interrupted, killed, or is to be iterated further."""

    name: ClassVar[str] = "resume"


def resume_help() -> str:
    """Render the help: what may change, of every method, and in a sentence what may not."""
    known = [*flags_of(Resume, {}), *flags_of_all(Resume.choices)]
    free = [flag for flag in known if flag.resume == "free"]
    new = ", ".join(flag.dashed for flag in known if flag.resume == "new")
    return render(
        Resume,
        [RUN, *free],
        more=f"Everything else is as it was when the run began: {RUN.name.upper()} says it. "
        "Another flag of sample is taken if it says the same, and refused if not; a flag of "
        f"another method or solver than the run's, and {new}, are refused.",
    )
