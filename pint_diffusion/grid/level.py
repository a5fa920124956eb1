"""Noise levels: points of a noise schedule."""

from __future__ import annotations

from math import inf, log, log1p, sqrt
from typing import NamedTuple


class Level(NamedTuple):
    """A point of a noise schedule: its states are x = a x0 + s eps with a^2 + s^2 = 1.

    Attributes
    ----------
    t : float
        Timestep that the network takes, in the units of its `Schedule`.
    alpha_bar : float
        Squared signal coefficient a^2, in [0, 1].
    """

    t: float
    alpha_bar: float

    @property
    def a(self) -> float:
        """Signal coefficient, sqrt(alpha_bar)."""
        return sqrt(self.alpha_bar)

    @property
    def s(self) -> float:
        """Noise coefficient, sqrt(1 - alpha_bar)."""
        return sqrt(1.0 - self.alpha_bar)

    @property
    def v_slope(self) -> float:
        """D eps / d x while v does not move."""
        return self.s

    @property
    def sigma(self) -> float:
        """Noise level s / a of the variance-exploding form x / a = x0 + sigma eps."""
        return self.s / self.a if self.alpha_bar else inf

    @property
    def lam(self) -> float:
        """Half the logarithm of the signal-to-noise ratio, log(a / s)."""
        if not self.alpha_bar:
            return -inf
        return 0.5 * log(self.alpha_bar / (1.0 - self.alpha_bar)) if self.alpha_bar < 1 else inf


def ou_clock(sigma: float) -> float:
    """Return the time of PIADM's clock at sigma = s / a: PIADM's steps are equal parts of it.

    In Ornstein-Uhlenbeck time r = -log alpha_bar = log(1 + sigma^2) the steps have length
    e min(1, r). So the clock is r down to r = 1, and 1 + log r below.
    """
    time = log1p(sigma * sigma)
    if time >= 1:
        return time
    return 1 + log(time) if time else -inf


def noise_into(here: Level, there: Level) -> float:
    """Return the standard deviation of the noise that DDPM adds in a step (DDIM with eta = 1)."""
    return there.s / here.s * sqrt(1 - here.alpha_bar / there.alpha_bar)
