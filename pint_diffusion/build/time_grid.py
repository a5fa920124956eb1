"""From what is asked for to a time grid: noise levels, and slices that fit method and ranks."""

from __future__ import annotations

from pint_diffusion.errors import InputError
from pint_diffusion.grid import SLICINGS, Schedule, Spacing, TimeGrid
from pint_diffusion.grid.level import Level
from pint_diffusion.grid.slicing import check_bounds
from pint_diffusion.methods.method import Method, Sliced

DEFAULT_STEPS = 64
"""N where nobody says how many."""

MOST_STEPS = 1_000_000
"""Greatest N."""


def make_grid(
    schedule: Schedule,
    method: Method,
    ranks: int,
    steps: int | None = None,
    spacing: Spacing = Spacing(),  # noqa: B008
    grid: TimeGrid | None = None,
) -> TimeGrid:
    """Build the grid of a run.

    Parameters
    ----------
    schedule : Schedule
        The network's.
    method : Method
        Says into how many slices it wants the steps.
    ranks : int
        Number of processes; each needs a slice of a method that has slices.
    steps : int, optional
        N; `DEFAULT_STEPS` if not given.
    spacing : Spacing
        Where the levels lie.
    grid : TimeGrid, optional
        Levels, instead of steps and spacing. Its slices are taken if the method names none.

    Raises
    ------
    InputError
        If these do not fit each other, the schedule or the number of ranks.
    """
    if grid is None:
        refuse_too_many("steps", steps or DEFAULT_STEPS, steps or DEFAULT_STEPS)
        levels = spacing.levels(schedule, steps or DEFAULT_STEPS)
        return TimeGrid(levels, slice_bounds(levels, None, method, ranks))
    if steps not in (None, grid.steps):
        raise InputError(
            f"`steps` is {steps}, but the grid has {grid.steps} steps: leave `steps` out"
        )
    given = grid.bounds if grid.slices > 1 else None
    return TimeGrid(grid.levels, slice_bounds(grid.levels, given, method, ranks))


def refuse_too_many(option: str, value: int, steps: int) -> None:
    """Refuse an option that makes more than `MOST_STEPS` steps.

    Raises
    ------
    InputError
        If it does.
    """
    if steps > MOST_STEPS:
        raise InputError(
            f"`{option}` {value} makes {steps} steps, and {MOST_STEPS} are the most: take fewer"
        )


def slice_bounds(
    levels: tuple[Level, ...], given: tuple[int, ...] | None, method: Method, ranks: int
) -> tuple[int, ...]:
    """Return the slice boundaries, as M + 1 step indices.

    They are, in this order, the method's bounds, as many slices as it says, those ``given`` with
    the levels, or as many as it has where nobody says how many.

    Raises
    ------
    InputError
        If there are more slices than steps, or fewer than ranks.
    """
    steps = len(levels) - 1
    if not isinstance(method, Sliced):
        return given or (0, steps)
    if method.bounds is not None:
        check_bounds(bounds := method.bounds, steps)
    elif given is not None and method.slices is None and method.slicing == "even":
        bounds = given
    else:
        in_grid = None if given is None else len(given) - 1
        slices = method.slices or in_grid or method.default_slices(steps, ranks)
        if steps < slices:
            raise InputError(
                f"`steps` {steps} is less than the number of slices, {slices}: every slice needs "
                "at least one step, so raise `steps` or lower `slices`"
            )
        bounds = SLICINGS[method.slicing](levels, slices)
    if method.ranks_own_slices and len(bounds) - 1 < ranks:
        raise InputError(
            f"{len(bounds) - 1} slices for {ranks} ranks: every rank needs at least one slice, so "
            "start fewer ranks, or a run with more `slices`"
        )
    return tuple(bounds)
