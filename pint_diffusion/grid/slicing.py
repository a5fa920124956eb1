"""Slice boundaries: the step indices at which slices begin and end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pint_diffusion.errors import InputError
from pint_diffusion.grid.level import Level, ou_clock


def check_bounds(bounds: Sequence[int], steps: int) -> None:
    """Refuse slice boundaries that do not rise strictly from 0 to ``steps``."""
    if len(bounds) < 2 or (bounds[0], bounds[-1]) != (0, steps) or (np.diff(bounds) <= 0).any():
        raise InputError(
            f"slice boundaries {list(bounds)} must rise strictly from 0 to the number of steps, "
            f"{steps}"
        )


def even_bounds(steps: int, slices: int) -> tuple[int, ...]:
    """Cut N ``steps`` into M ``slices`` that differ by at most one step; return M + 1 indices."""
    if slices < 1:
        raise InputError(f"`slices` is {slices}; at least one slice is needed")
    if steps < slices:
        raise InputError(
            f"`steps` is {steps} but `slices` is {slices}: every slice needs at least one step, "
            "so raise `steps` or lower `slices`"
        )
    return tuple(n * steps // slices for n in range(slices + 1))


def clock_bounds(
    clock: Callable[[Level], float], levels: Sequence[Level], slices: int
) -> tuple[int, ...]:
    """Cut a walk into slices of nearly equal length on a clock; return M + 1 indices.

    Every slice has at least one step. A step from pure noise or into clean data is infinitely
    long. It counts as long as the step beside it.

    Raises
    ------
    InputError
        If there are fewer steps than slices.
    """
    bounds = list(even_bounds(len(levels) - 1, slices))
    steps = bounds[-1]
    reached = np.concatenate([[0.0], np.cumsum(_lengths([clock(level) for level in levels]))])
    for n in range(1, slices):
        nearest = int(np.abs(reached - reached[-1] * n / slices).argmin())
        bounds[n] = min(max(nearest, bounds[n - 1] + 1), steps - (slices - n))
    return tuple(bounds)


def _lengths(times: Sequence[float]) -> NDArray[np.float64]:
    """Return the length of each step between times; all are finite."""
    inside = [time for time in times if np.isfinite(time)]
    finite = np.abs(np.diff(inside))
    if not finite.size:
        return np.ones(len(times) - 1)
    before = finite[:1] if np.isinf(times[0]) else finite[:0]
    after = finite[-1:] if np.isinf(times[-1]) else finite[:0]
    return np.concatenate([before, finite, after])


SLICINGS: dict[str, Callable[[Sequence[Level], int], tuple[int, ...]]] = {
    "even": lambda levels, slices: even_bounds(len(levels) - 1, slices),
    "logsnr": partial(clock_bounds, lambda level: level.lam),
    "ou": partial(clock_bounds, lambda level: ou_clock(level.sigma)),
}
"""Name -> function that cuts a walk over N + 1 levels into M slices."""
