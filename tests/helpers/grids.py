"""Time grids as the tests need them."""

from __future__ import annotations

from pint_diffusion.build import time_grid as build
from pint_diffusion.build.from_settings import grid_in_file, spacing_of
from pint_diffusion.grid import SLICINGS, Spacing, TimeGrid


def make_grid(schedule, steps, slices, bounds=None, spacing=Spacing(), slicing="even"):  # noqa: B008
    """Levels of a spacing in ``slices`` slices, or in those that ``bounds`` say."""
    levels = spacing.levels(schedule, steps)
    return TimeGrid(levels, SLICINGS[slicing](levels, slices) if bounds is None else tuple(bounds))


def grid_of(settings, schedule, ranks):
    """The grid of a run by its settings, with a network of some schedule on some ranks."""
    spacing = spacing_of(settings, settings.spacing)
    given = settings.given_steps, spacing, grid_in_file(settings, schedule)
    return build.make_grid(schedule, settings.method, ranks, *given)
