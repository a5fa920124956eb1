"""Pictures and tables of a run: of a finished one from its record, of one under way as outputs."""

from __future__ import annotations

from pathlib import Path

from pint_diffusion.store.record import RunRecord


def draw_pictures(record: RunRecord, folder: Path) -> list[Path]:
    """Draw samples.png, refinement.png and wavefront.png into a folder and return their paths.

    A run that kept no boundary states has no refinement.png.
    """
    from pint_diffusion.report.pictures import draw_refinement, draw_samples
    from pint_diffusion.report.wavefront import draw_wavefront

    drawn = [folder / "samples.png", folder / "wavefront.png"]
    draw_samples(record, drawn[0])
    draw_wavefront(record, drawn[1])
    if record.boundary is not None:
        drawn.append(folder / "refinement.png")
        draw_refinement(record, drawn[-1])
    return drawn
