"""Noise schedules and time grids: noise levels and slice boundaries as data.

Sampling runs from noise to data, so index 0 of a grid is the noisiest level and index N the
clean one. A level is a pair (t, alpha_bar): the timestep the network is told, in units of its
training steps, and the share of signal in ``x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pint_diffusion.errors import InputError


class Level(NamedTuple):
    """A point of the noise schedule.

    Attributes
    ----------
    t : float
        Timestep in units of training steps, -1 (clean) to T - 1 (noisiest); may be fractional.
    alpha_bar : float
        Squared signal coefficient, in (0, 1].
    """

    t: float
    alpha_bar: float


class NoiseSchedule:
    """A discrete training schedule, continued to real timesteps.

    Between training steps ``log(alpha_bar)`` is interpolated linearly; one step below the first
    training step, at t = -1, lies the clean level alpha_bar = 1.

    Parameters
    ----------
    alphas_cumprod : array_like, shape (T,)
        alpha_bar after each training step, strictly decreasing, in (0, 1).

    Raises
    ------
    InputError
        If the array is not one-dimensional, finite, strictly decreasing and inside (0, 1).
    """

    def __init__(self, alphas_cumprod: ArrayLike) -> None:
        values = np.asarray(alphas_cumprod, dtype=np.float64)
        if values.ndim != 1 or values.size < 2:
            raise InputError(
                f"alphas_cumprod has shape {values.shape}; give one value per training step, (T,)"
            )
        inside = np.isfinite(values).all() and values[0] < 1 and values[-1] > 0
        if not inside or (np.diff(values) >= 0).any():
            raise InputError(
                "alphas_cumprod must decrease strictly inside (0, 1), "
                f"but runs from {values[0]:g} to {values[-1]:g} or is not monotone"
            )
        self.alphas_cumprod = values
        self._log = np.concatenate([[0.0], np.log(values)])  # entry j belongs to t = j - 1

    @classmethod
    def ddpm_linear(cls, steps: int = 1000) -> NoiseSchedule:
        """The linear schedule of DDPM (Ho et al. 2020): beta from 1e-4 to 0.02."""
        return cls(np.cumprod(1.0 - np.linspace(1e-4, 0.02, steps)))

    @property
    def training_steps(self) -> int:
        """Number T of training steps."""
        return self.alphas_cumprod.size

    def alpha_bar(self, t: ArrayLike) -> NDArray[np.float64]:
        """Return alpha_bar at real timesteps ``t`` in [-1, T - 1], any shape.

        At whole timesteps the training value is returned as it is, to the bit.
        """
        t = np.asarray(t, dtype=np.float64)
        if ((t < -1) | (t > self.training_steps - 1)).any():
            raise InputError(
                f"timestep outside the schedule: {t.min():g} .. {t.max():g}, "
                f"allowed is -1 .. {self.training_steps - 1}"
            )
        between = np.exp(np.interp(t + 1, np.arange(self._log.size), self._log))
        index = np.rint(t).astype(np.int64)
        exact = np.concatenate([[1.0], self.alphas_cumprod])[index + 1]
        return np.where(index == t, exact, between)


@dataclass(frozen=True)
class TimeGrid:
    """The N fine steps of a run and their division into M slices.

    Attributes
    ----------
    levels : tuple of Level
        The N + 1 levels, noisiest first.
    bounds : tuple of int
        The M + 1 step indices at which slices begin and end, from 0 to N, strictly increasing.
    """

    levels: tuple[Level, ...]
    bounds: tuple[int, ...]

    def __post_init__(self) -> None:
        b = self.bounds
        if len(b) < 2 or b[0] != 0 or b[-1] != self.steps or (np.diff(b) <= 0).any():
            raise InputError(
                f"slice boundaries {list(b)} must rise strictly from 0 to the number of steps, "
                f"{self.steps}"
            )
        alpha_bar = [level.alpha_bar for level in self.levels]
        if (np.diff(alpha_bar) <= 0).any():
            raise InputError("the levels of a time grid must rise strictly in alpha_bar")

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

    def coarse(self, n: int, steps: int) -> tuple[Level, ...]:
        """Levels of a walk over slice ``n`` in at most ``steps`` steps, both ends included.

        They are fine levels, as evenly spread as the slice allows.
        """
        levels = self.fine(n)
        last = len(levels) - 1
        picks = even_bounds(last, min(steps, last))
        return tuple(levels[i] for i in picks)


def even_bounds(steps: int, slices: int) -> tuple[int, ...]:
    """Cut ``steps`` into ``slices`` parts that differ by at most one, as M + 1 indices."""
    if slices < 1:
        raise InputError(f"slices is {slices}; at least one slice is needed")
    if steps < slices:
        raise InputError(
            f"steps is {steps} but slices is {slices}: every slice needs at least one step, "
            "so raise --steps or lower --slices"
        )
    return tuple(n * steps // slices for n in range(slices + 1))


def default_slices(steps: int, ranks: int) -> int:
    """M when the user names none: the number of ranks, or sqrt(N) in one process (SRDS)."""
    return ranks if ranks > 1 else max(1, isqrt(steps))


def trailing_levels(schedule: NoiseSchedule, steps: int) -> tuple[Level, ...]:
    """``steps`` + 1 levels evenly spaced in t, from t = T - 1 to the clean level t = -1.

    This is the "trailing" spacing (Lin et al. 2024); more steps than the network was trained with
    give fractional timesteps.
    """
    if steps < 1:
        raise InputError(f"steps is {steps}; at least one step is needed")
    total = schedule.training_steps
    t = total * (steps - np.arange(steps + 1)) / steps - 1.0
    return tuple(Level(float(a), float(b)) for a, b in zip(t, schedule.alpha_bar(t), strict=True))


def make_grid(
    schedule: NoiseSchedule, steps: int, slices: int, bounds: Sequence[int] | None = None
) -> TimeGrid:
    """Build the grid of a run; ``bounds`` overrides the even division into ``slices``."""
    cut = even_bounds(steps, slices) if bounds is None else tuple(bounds)
    return TimeGrid(trailing_levels(schedule, steps), cut)
