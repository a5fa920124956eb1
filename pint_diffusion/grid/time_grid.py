"""The grid of a run: noise levels and slice boundaries as data."""

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
    from pint_diffusion.config import Settings
    from pint_diffusion.grid_command import GridSettings


@dataclass(frozen=True)
class TimeGrid:
    """The N fine steps of a run and their division into M slices.

    Attributes
    ----------
    levels : tuple of Level
        The N + 1 levels, noisiest first. Where one is repeated, a step corrects the state and
        leaves the level as it is.
    bounds : tuple of int
        The M + 1 step indices at which slices begin and end, from 0 to N, strictly increasing.
    """

    levels: tuple[Level, ...]
    bounds: tuple[int, ...]

    def __post_init__(self) -> None:
        check_bounds(self.bounds, self.steps)
        alpha_bar = [level.alpha_bar for level in self.levels]
        if (np.diff(alpha_bar) < 0).any():
            raise InputError("the levels of a time grid must not fall in alpha_bar")

    @property
    def steps(self) -> int:
        """Number N of fine steps."""
        return len(self.levels) - 1

    @property
    def slices(self) -> int:
        """Number M of slices."""
        return len(self.bounds) - 1

    def fine(self, n: int) -> tuple[Level, ...]:
        """Levels of the fine walk over slice ``n``, both ends included."""
        return self.levels[self.bounds[n] : self.bounds[n + 1] + 1]

    def corrected(self, steps: int) -> TimeGrid:
        """Add a slice of ``steps`` steps at the level that is reached between any two slices."""
        levels, bounds = list(self.fine(0)), [0, self.bounds[1]]
        for n in range(1, self.slices):
            levels += levels[-1:] * steps
            bounds.append(len(levels) - 1)
            levels += self.fine(n)[1:]
            bounds.append(len(levels) - 1)
        return TimeGrid(tuple(levels), tuple(bounds))

    def coarsened(self, steps: int) -> TimeGrid:
        """The same slices, each in at most ``steps`` steps.

        The levels are fine levels, as evenly spread as each slice allows.
        """
        picks = [0]
        bounds = [0]
        for first, end in pairwise(self.bounds):
            inside = even_bounds(end - first, min(steps, end - first))
            picks += [first + i for i in inside[1:]]
            bounds.append(len(picks) - 1)
        return TimeGrid(tuple(self.levels[i] for i in picks), tuple(bounds))


def make_grid(
    schedule: Schedule,
    steps: int,
    slices: int,
    bounds: Sequence[int] | None = None,
    spacing: Spacing = Spacing(),  # noqa: B008
    slicing: str = "even",
) -> TimeGrid:
    """Build a grid; ``bounds`` overrides the division into ``slices`` by ``slicing``.

    Raises
    ------
    InputError
        If the spacing does not fit the schedule, or the slices the steps.
    """
    levels = spacing.levels(schedule, steps)
    return TimeGrid(levels, SLICINGS[slicing](levels, slices) if bounds is None else tuple(bounds))


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
