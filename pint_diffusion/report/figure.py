"""Figures of matplotlib, drawn by Agg: no window, and no backend of the environment."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**how: Any) -> Figure:
    """Return an empty figure that only `savefig` draws.

    Parameters
    ----------
    how
        Size, resolution, layout and so on, see `matplotlib.figure.Figure`.
    """
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(**how)
    FigureCanvasAgg(figure)
    return figure


def import_matplotlib() -> None:
    """Import matplotlib, also where MPLBACKEND names a backend that it refuses to start with.

    A name that it knows is what the rest of the program has afterwards, as if this had not been.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
