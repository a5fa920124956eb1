"""Pictures and tables of a finished run, drawn from its record alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

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


def stream_answer(folder: Path, data_range: Sequence[float], k: int, answer: NDArray[Any]) -> None:
    """Draw the answer (S, *shape) of iteration ``k`` into a folder, and say so on standard error.

    The picture is whole or not there.
    """
    from pint_diffusion.report.pictures import draw_answer

    path = folder / f"iteration-{k:02d}.png"
    path.parent.mkdir(exist_ok=True)
    draw_answer(answer, data_range, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)
    tqdm.write(f"iteration {k}: {path}", file=sys.stderr)
