"""Noise schedules: which noise level belongs to which timestep.

A schedule has a level at every real timestep. Timesteps fall from the noisiest one, ``first``,
past the least noisy one that the network was trained with, ``least``, to ``clean``, where
alpha_bar is 1.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pint_diffusion.errors import InputError
from pint_diffusion.grid.level import Level


class Schedule(Protocol):
    """A map between timesteps and noise levels.

    Attributes
    ----------
    first, least, clean : float
        Timesteps of the noisiest level, of the least noisy trained level, and of clean data. They
        fall in this order.
    """

    first: float
    least: float
    clean: float

    def alpha_bar(self, t: ArrayLike) -> NDArray[np.float64]:
        """Return alpha_bar at timesteps ``t`` of any shape; it falls as t rises.

        Raises
        ------
        InputError
            If a timestep lies outside ``clean`` .. ``first``.
        """
        ...

    def timestep(self, alpha_bar: ArrayLike) -> NDArray[np.float64]:
        """Return the timesteps of levels of any shape: the inverse of `alpha_bar`.

        Raises
        ------
        InputError
            If a level is noisier than that of ``first``.
        """
        ...


class NoiseSchedule:
    """A discrete training schedule; t is in units of training steps, T - 1 down to 0.

    Between training steps ``log(alpha_bar)`` is linear in t. One step below the first training
    step, at t = -1, lies the clean level alpha_bar = 1. The way back, from a level to t, takes
    ``log(sigma)`` as linear, as k-diffusion and diffusers do. With T = 1000 the two differ by less
    than 0.1 steps.

    Parameters
    ----------
    alphas_cumprod : array_like, shape (T,)
        alpha_bar after each training step, strictly decreasing, in (0, 1).

    Raises
    ------
    InputError
        If the array is not one-dimensional, finite, strictly decreasing and inside (0, 1).
    """

    least = 0.0
    clean = -1.0

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
        self.first = float(values.size - 1)
        self._log = np.concatenate([[0.0], np.log(values)])  # entry j belongs to t = j - 1

    @classmethod
    def ddpm_linear(cls, steps: int = 1000) -> NoiseSchedule:
        """Return the linear schedule of DDPM (Ho et al. 2020): beta from 1e-4 to 0.02."""
        return cls(np.cumprod(1.0 - np.linspace(1e-4, 0.02, steps)))

    @property
    def training_steps(self) -> int:
        """Number T of training steps."""
        return self.alphas_cumprod.size

    def alpha_bar(self, t: ArrayLike) -> NDArray[np.float64]:
        """Return alpha_bar at real timesteps ``t`` in [-1, T - 1], any shape.

        At whole timesteps this is the training value, to the bit.
        """
        t = _inside(t, self.clean, self.first)
        between = np.exp(np.interp(t + 1, np.arange(self._log.size), self._log))
        index = np.rint(t).astype(np.int64)
        exact = np.concatenate([[1.0], self.alphas_cumprod])[index + 1]
        return np.where(index == t, exact, between)

    def timestep(self, alpha_bar: ArrayLike) -> NDArray[np.float64]:
        """Return real timesteps in [-1, T - 1] of levels of any shape.

        At a training value this is the whole timestep. Below the first training value, where sigma
        goes to zero, log(alpha_bar) is linear in t.
        """
        alpha_bar = _reached(alpha_bar, self.alphas_cumprod[-1])
        trained = self.alphas_cumprod
        log_sigma = 0.5 * np.log((1 - trained) / trained)
        below = alpha_bar > trained[0]
        inside = np.where(below, trained[0], alpha_bar)
        t = np.interp(0.5 * np.log((1 - inside) / inside), log_sigma, np.arange(trained.size))
        return np.where(below, np.log(alpha_bar) / self._log[1] - 1.0, t)


class FlowSchedule:
    """Flow matching: z = (1 - sigma) x0 + sigma eps and t = T sigma, from T down to 0.

    For x = z / sqrt((1 - sigma)^2 + sigma^2) this is alpha_bar = (1 - sigma)^2 /
    ((1 - sigma)^2 + sigma^2). At t = T alpha_bar is zero: pure noise.

    Parameters
    ----------
    training_steps : float
        T, the timestep of pure noise: 1000, or 1 for networks that take sigma itself. The least
        noisy trained level is at T / 1000.

    Raises
    ------
    InputError
        If T is not positive and finite.
    """

    clean = 0.0

    def __init__(self, training_steps: float = 1000) -> None:
        if not 0 < training_steps < np.inf:
            raise InputError(f"training_steps is {training_steps}; give 1000, or 1 for t = sigma")
        self.training_steps = training_steps
        self.first = float(training_steps)
        self.least = self.first / 1000

    def alpha_bar(self, t: ArrayLike) -> NDArray[np.float64]:
        """Return alpha_bar at timesteps ``t`` in [0, T], any shape."""
        sigma = _inside(t, self.clean, self.first) / self.training_steps
        return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)

    def timestep(self, alpha_bar: ArrayLike) -> NDArray[np.float64]:
        """Return timesteps in [0, T] of levels of any shape."""
        alpha_bar = _reached(alpha_bar, 0.0)
        a, s = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
        return self.training_steps * s / (a + s)


class SigmaSchedule:
    """The EDM convention (Karras et al. 2022): y = x0 + sigma eps, and t is sigma itself.

    For x = y / sqrt(1 + sigma^2) this is alpha_bar = 1 / (1 + sigma^2).

    Parameters
    ----------
    sigma_min, sigma_max : float
        Least and greatest noise level s / a that the network was trained with.

    Raises
    ------
    InputError
        If they are not 0 < sigma_min < sigma_max, finite.
    """

    clean = 0.0

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        if not 0 < sigma_min < sigma_max < np.inf:
            raise InputError(
                f"sigma_range is ({sigma_min:g}, {sigma_max:g}); give 0 < sigma_min < sigma_max"
            )
        self.least, self.first = float(sigma_min), float(sigma_max)

    def alpha_bar(self, t: ArrayLike) -> NDArray[np.float64]:
        """Return alpha_bar at noise levels ``t`` in [0, sigma_max], any shape."""
        return 1 / (1 + _inside(t, self.clean, self.first) ** 2)

    def timestep(self, alpha_bar: ArrayLike) -> NDArray[np.float64]:
        """Return sigma of levels of any shape."""
        alpha_bar = _reached(alpha_bar, 1 / (1 + self.first**2))
        return np.minimum(np.sqrt((1 - alpha_bar) / alpha_bar), self.first)


def level_of_sigma(schedule: Schedule, sigma: float) -> Level:
    """Return the level with noise level ``sigma`` = s / a.

    Raises
    ------
    InputError
        If the schedule has no level that noisy.
    """
    alpha_bar = 1 / (1 + sigma * sigma)
    return Level(float(schedule.timestep(alpha_bar)), alpha_bar)


def _inside(t: ArrayLike, clean: float, first: float) -> NDArray[np.float64]:
    t = np.asarray(t, dtype=np.float64)
    if not ((t >= clean) & (t <= first)).all():
        raise InputError(
            f"timestep outside the schedule: {t.min():g} .. {t.max():g}, "
            f"allowed is {clean:g} .. {first:g}"
        )
    return t


def _reached(alpha_bar: ArrayLike, least: float) -> NDArray[np.float64]:
    alpha_bar = np.asarray(alpha_bar, dtype=np.float64)
    inside = (alpha_bar >= least * (1 - 1e-6)) & (alpha_bar <= 1)
    if not inside.all():
        raise InputError(
            f"level outside the schedule: alpha_bar is {alpha_bar[~inside].flat[0]:g}, allowed is "
            f"{least:g} (its noisiest level) .. 1"
        )
    return alpha_bar
