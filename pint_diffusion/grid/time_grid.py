"""The grid of a run: noise levels and slice boundaries as data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pint_diffusion.errors import InputError
from pint_diffusion.grid.level import Level
from pint_diffusion.grid.slicing import check_bounds, even_bounds


@dataclass(frozen=True)
class TimeGrid:
    """The N fine steps of a run and their division into M slices.

    Attributes
    ----------
    levels : tuple of Level
        The N + 1 levels, noisiest first. A step between two equal levels corrects the state and
        leaves the level as it is.
    bounds : tuple of int
        The M + 1 step indices at which slices begin and end. They rise strictly from 0 to N.
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
        """Return the levels of the fine walk over slice ``n``, both ends included."""
        return self.levels[self.bounds[n] : self.bounds[n + 1] + 1]

    def corrected(self, steps: int) -> TimeGrid:
        """Return the grid with a slice of ``steps`` corrections between any two slices."""
        levels, bounds = list(self.fine(0)), [0, self.bounds[1]]
        for n in range(1, self.slices):
            levels += levels[-1:] * steps
            bounds.append(len(levels) - 1)
            levels += self.fine(n)[1:]
            bounds.append(len(levels) - 1)
        return TimeGrid(tuple(levels), tuple(bounds))

    def coarsened(self, steps: int) -> TimeGrid:
        """Return the grid with the same slices, each in at most ``steps`` steps.

        Its levels are fine levels, as evenly spread as each slice allows.
        """
        picks = [0]
        bounds = [0]
        for first, end in pairwise(self.bounds):
            inside = even_bounds(end - first, min(steps, end - first))
            picks += [first + i for i in inside[1:]]
            bounds.append(len(picks) - 1)
        return TimeGrid(tuple(self.levels[i] for i in picks), tuple(bounds))
