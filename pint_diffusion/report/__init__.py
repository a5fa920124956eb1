"""Pictures and tables of a run: of a finished one from its record, of one under way as outputs."""

from __future__ import annotations

import io
from pathlib import Path

from pint_diffusion.store.directory import Directory
from pint_diffusion.store.record import RunRecord


def draw_pictures(record: RunRecord, folder: Path | Directory) -> list[Path]:
    """Draw samples.png, refinement.png and wavefront.png into a folder and return their paths.

    A run that kept no boundary states has no refinement.png. A link in place of a picture is
    replaced, and what it leads to is left alone.

    Raises
    ------
    OSError
        If one can't be written, or if the folder is no longer where it was.
    """
    from pint_diffusion.report.pictures import draw_refinement, draw_samples
    from pint_diffusion.report.wavefront import draw_wavefront

    here = Directory.of(folder)
    draws = {"samples.png": draw_samples, "wavefront.png": draw_wavefront}
    if record.boundary is not None:
        draws["refinement.png"] = draw_refinement
    for name, draw in draws.items():
        picture = io.BytesIO()
        draw(record, picture)
        here.verify()
        here.replace(name, picture.getvalue())
    return [here.path / name for name in draws]
