"""Noise schedules and time grids: noise levels and slice boundaries as data.

Sampling runs from noise to data, so index 0 of a grid is the noisiest level and index N the
cleanest one.
"""

from __future__ import annotations

from pint_diffusion.grid.file import read_grid, write_grid
from pint_diffusion.grid.level import Level
from pint_diffusion.grid.schedule import (
    FlowSchedule,
    NoiseSchedule,
    Schedule,
    SigmaSchedule,
    level_of_sigma,
)
from pint_diffusion.grid.slicing import SLICINGS, even_bounds
from pint_diffusion.grid.spacing import SPACINGS, Spacing
from pint_diffusion.grid.time_grid import TimeGrid

__all__ = [
    "SLICINGS",
    "SPACINGS",
    "FlowSchedule",
    "Level",
    "NoiseSchedule",
    "Schedule",
    "SigmaSchedule",
    "Spacing",
    "TimeGrid",
    "even_bounds",
    "level_of_sigma",
    "read_grid",
    "write_grid",
]
