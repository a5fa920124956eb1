"""From settings to a time grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pint_diffusion.errors import InputError
from pint_diffusion.grid.file import read_grid
from pint_diffusion.grid.level import Level
from pint_diffusion.grid.schedule import Schedule
from pint_diffusion.grid.slicing import SLICINGS, check_bounds, default_slices, even_bounds
from pint_diffusion.grid.spacing import Spacing

if TYPE_CHECKING:
    from pint_diffusion.settings.run import Settings
    from pint_diffusion.settings.grid import GridSettings


from pint_diffusion.grid.time_grid import TimeGrid

def grid_of(settings: Settings, schedule: Schedule, ranks: int) -> TimeGrid:
    """Build the grid of a run.

    Slices are, in this order, the settings' bounds, as many as the settings say, those of the grid
    file, or `default_slices`.

    Parameters
    ----------
    settings : Settings
        The run.
    schedule : Schedule
        The network's.
    ranks : int
        Number of processes; each needs a slice.

    Raises
    ------
    InputError
        If the settings do not fit each other, the grid file, the schedule or the number of ranks.
    """
    if settings.grid is None:
        levels, bounds = spacing_of(settings).levels(schedule, settings.steps), None
    else:
        levels, bounds = read_grid(settings.grid, schedule)
    steps = len(levels) - 1
    if (
        settings.grid is not None
        and "steps" in settings.model_fields_set
        and settings.steps != steps
    ):
        raise InputError(
            f"--steps is {settings.steps}, but the grid file {settings.grid} has {steps} steps: "
            "leave --steps out"
        )
    if settings.bounds is not None:
        bounds = settings.bounds
    elif bounds is None or settings.slices is not None or settings.slicing != "even":
        in_file = None if bounds is None else len(bounds) - 1
        slices = settings.slices or in_file or default_slices(steps, ranks)
        if steps < slices:
            source = "--steps" if settings.grid is None else f"the steps of {settings.grid}:"
            raise InputError(
                f"{source} {steps} is less than the number of slices, {slices}: every slice needs "
                "at least one step, so raise --steps or lower --slices"
            )
        bounds = SLICINGS[settings.slicing](levels, slices)
    grid = TimeGrid(levels, bounds)
    if grid.slices < ranks:
        raise InputError(
            f"{grid.slices} slices for {ranks} ranks: every rank needs at least one slice, so "
            "start fewer ranks, or a run with more --slices"
        )
    return grid


def spacing_of(settings: Settings | GridSettings, name: str | None = None) -> Spacing:
    """Take the options of a spacing from settings, and its name if none is given."""
    return Spacing(
        name or settings.spacing,
        settings.whole_timesteps,
        settings.sigma_min,
        settings.sigma_max,
        settings.rho,
        settings.shift,
        settings.final,
    )
