"""Spacings: where the N levels before the end of a walk lie on a schedule.

Some are even in the timestep t. The others are even in a function of the noise level sigma = s / a.
On a `NoiseSchedule` they are the spacings of the schedulers of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pint_diffusion.errors import InputError
from pint_diffusion.grid.level import Level, ou_clock
from pint_diffusion.grid.schedule import FlowSchedule, Schedule, SigmaSchedule

Values: TypeAlias = NDArray[np.float64]
"""The t or the sigma of the points of a walk, noisiest first, shape (points,)."""


def trailing(schedule: Schedule, points: int) -> Values:
    """Return t, even from the noisiest level, with a last step into clean data (Lin et al. 2024).

    Where there are more points than training steps, the timesteps are fractions.
    """
    span = schedule.first - schedule.clean
    return span * (points - np.arange(points)) / points + schedule.clean


def leading(schedule: Schedule, points: int) -> Values:
    """Return t, even up from the least noisy trained level, by whole training steps.

    The stride is T // N, so the noisiest level is left out. This is the spacing of the first DDIM.
    Where there are fewer training steps than points, or none, the stride is (first - least) / N.
    """
    span = schedule.first - schedule.clean
    ratio: float = span // points
    if ratio < 1 or isinstance(schedule, SigmaSchedule):
        ratio = (schedule.first - schedule.least) / points
    return schedule.least + ratio * np.arange(points, dtype=np.float64)[::-1]


def linspace(schedule: Schedule, points: int) -> Values:
    """Return t, even from the noisiest to the least noisy trained level."""
    return np.linspace(schedule.least, schedule.first, points).astype(np.float64)[::-1]


def dpm_linspace(schedule: Schedule, points: int) -> Values:
    """Return `linspace` of one point more, without the last: the grid of DPM-Solver's code."""
    return linspace(schedule, points + 1)[:-1]


def dpm_leading(schedule: Schedule, points: int) -> Values:
    """Return `leading` of one point more, without the last: the grid of DPM-Solver's code."""
    return leading(schedule, points + 1)[:-1]


def karras(high: float, low: float, points: int, rho: float) -> Values:
    """Return sigma, even in sigma^(1 / rho) (Karras et al. 2022, eq. 5)."""
    ramp = np.linspace(0, 1, points)
    top, bottom = high ** (1 / rho), low ** (1 / rho)
    return (top + ramp * (bottom - top)) ** rho


def exponential(high: float, low: float, points: int, rho: float) -> Values:
    """Return sigma, even in log sigma.

    log sigma is minus half the logarithm of the signal-to-noise ratio. So this is also the
    uniform-logSNR spacing of DPM-Solver (Lu et al. 2022).
    """
    return np.exp(np.linspace(np.log(high), np.log(low), points))


def beta(high: float, low: float, points: int, rho: float) -> Values:
    """Return sigma at even quantiles of the Beta(0.6, 0.6) distribution (Lee et al. 2024).

    Both ends are dense.
    """
    from scipy.stats import beta as distribution  # takes half a second to import

    quantiles = distribution.ppf(1 - np.linspace(0, 1, points), 0.6, 0.6)
    return low + (high - low) * np.asarray(quantiles, dtype=np.float64)


def ou(high: float, low: float, points: int, rho: float) -> Values:
    """Return sigma, even in `ou_clock` (Chen et al. 2024, arXiv 2405.15986).

    Ornstein-Uhlenbeck time r = -log alpha_bar = log(1 + sigma^2) falls in equal steps of length e
    down to r = 1, and then by equal factors of about 1 - e.
    """
    clock = np.linspace(ou_clock(high), ou_clock(low), points)
    time = np.where(clock > 1, clock, np.exp(np.minimum(clock, 1) - 1))
    return np.sqrt(np.expm1(time))


IN_T: dict[str, Callable[[Schedule, int], Values]] = {
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "dpm_leading": dpm_leading,
    "dpm_linspace": dpm_linspace,
}
IN_SIGMA: dict[str, Callable[[float, float, int, float], Values]] = {
    "karras": karras,
    "exponential": exponential,
    "logsnr": exponential,
    "beta": beta,
    "ou": ou,
}
SPACINGS = {**IN_T, **IN_SIGMA}
"""Functions that return the points of a walk, by the name of the spacing."""


@dataclass(frozen=True)
class Spacing:
    """A spacing with its options.

    Attributes
    ----------
    name : str
        Name in `SPACINGS`.
    whole_timesteps : bool
        The network gets whole timesteps only. A spacing in t rounds its levels to them. A spacing
        in sigma keeps its levels and rounds the timesteps.
    sigma_min, sigma_max : float or None
        Ends of a spacing in sigma = s / a; None takes the schedule's ``least`` and ``first``.
    rho : float
        Exponent of ``karras``.
    shift : float
        Flow-matching shift: z's noise level f = s / (a + s) becomes shift f / (1 + (shift - 1) f)
        (Esser et al. 2024, eq. 23).
    final : {"clean", "least"}
        End of the walk: clean data, or the least noisy trained level (with a spacing in sigma:
        sigma_min).
    """

    name: str = "trailing"
    whole_timesteps: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float = 7.0
    shift: float = 1.0
    final: Literal["clean", "least"] = "clean"

    def levels(self, schedule: Schedule, steps: int) -> tuple[Level, ...]:
        """Place ``steps`` + 1 levels on a schedule, noisiest first.

        Raises
        ------
        InputError
            If the options do not fit each other or the schedule, or two levels would be equal.
        """
        self._check(schedule, steps)
        t, alpha_bar = (self._in_t if self.name in IN_T else self._in_sigma)(schedule, steps)
        if (np.diff(alpha_bar) <= 0).any():
            raise InputError(
                f"`steps` {steps} with `spacing` {self.name}{self._said()} puts two levels in one "
                "place or in the wrong order: take fewer steps or another spacing"
            )
        return tuple(Level(float(a), float(b)) for a, b in zip(t, alpha_bar, strict=True))

    def _in_t(self, schedule: Schedule, steps: int) -> tuple[Values, Values]:
        ends_clean = self.final == "clean"
        # these have no point at the least noisy level
        stops_before = self.name in ("trailing", "dpm_leading", "dpm_linspace")
        points = steps if ends_clean or stops_before else steps + 1
        if self.whole_timesteps and self.name == "trailing":
            t = _counted_down(schedule, points)
        else:
            t = IN_T[self.name](schedule, points)
        if isinstance(schedule, FlowSchedule) and self.shift != 1:
            sigma = t / schedule.first
            t = schedule.first * (self.shift * sigma / (1 + (self.shift - 1) * sigma))
        if self.whole_timesteps:
            t = np.round(t)
        t = np.append(t[:steps], schedule.clean if ends_clean else schedule.least)
        return t, schedule.alpha_bar(t)

    def _in_sigma(self, schedule: Schedule, steps: int) -> tuple[Values, Values]:
        noisiest, least = (
            Level(t, float(schedule.alpha_bar(t))) for t in (schedule.first, schedule.least)
        )
        high = noisiest.sigma if self.sigma_max is None else self.sigma_max
        low = least.sigma if self.sigma_min is None else self.sigma_min
        if high == np.inf:
            raise InputError(
                f"the spacing {self.name} needs `sigma_max` here: the noisiest level of this "
                "network is pure noise, whose sigma is infinite"
            )
        if high > noisiest.sigma * (1 + 1e-6):
            raise InputError(
                f"`sigma_max` {high:g} is outside the schedule, whose greatest sigma is "
                f"{noisiest.sigma:g}"
            )
        if low >= high:
            raise InputError(
                f"sigma falls from `sigma_max` to `sigma_min`, but {high:g} is not above {low:g}"
            )
        ends_clean = self.final == "clean"
        sigma = IN_SIGMA[self.name](high, low, steps if ends_clean else steps + 1, self.rho)
        alpha_bar = np.maximum(1 / (1 + sigma**2), noisiest.alpha_bar)
        if self.sigma_max is None:
            alpha_bar[0] = noisiest.alpha_bar
        t = schedule.timestep(alpha_bar)
        if self.whole_timesteps:
            t = np.round(t)
        if ends_clean:
            t, alpha_bar = np.append(t, schedule.clean), np.append(alpha_bar, 1.0)
        return t, alpha_bar

    def _check(self, schedule: Schedule, steps: int) -> None:
        if steps < 1:
            raise InputError(f"`steps` is {steps}; at least one step is needed")
        if self.name not in SPACINGS:
            raise InputError(
                f"`spacing` {self.name} is unknown: it is one of {', '.join(SPACINGS)}"
            )
        for name, value in (
            *(("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)),
            *(("rho", self.rho), ("shift", self.shift)),
        ):
            if value is not None and not 0 < value < np.inf:
                raise InputError(f"`{name}` is {value:g}, but must be a number above 0")
        if self.name in IN_T and (self.sigma_min, self.sigma_max) != (None, None):
            raise InputError(
                f"`sigma_min` and `sigma_max` are for spacings in sigma ({', '.join(IN_SIGMA)}), "
                f"and {self.name} is one in t"
            )
        if self.name != "karras" and self.rho != 7:
            raise InputError(f"`rho` is for `spacing` karras, and the spacing is {self.name}")
        if self.shift != 1 and not isinstance(schedule, FlowSchedule):
            raise InputError(
                f"`shift` {self.shift:g} is for flow-matching networks, and this is none"
            )
        if self.shift != 1 and self.name in IN_SIGMA:
            raise InputError(
                f"`shift` {self.shift:g} is for spacings in t ({', '.join(IN_T)}): it multiplies "
                f"every sigma, so give `sigma_min` and `sigma_max` to {self.name} instead"
            )
        if self.whole_timesteps:
            self._check_whole(schedule, steps)

    def _check_whole(self, schedule: Schedule, steps: int) -> None:
        if isinstance(schedule, SigmaSchedule):
            raise InputError(
                "`whole_timesteps` is for networks that are told a timestep, and this one is told "
                "sigma"
            )
        available = round(schedule.first - schedule.clean)
        if self.name in IN_T and steps > available:
            raise InputError(
                f"`whole_timesteps` allows at most {available} steps, the network's training "
                f"steps, and `steps` is {steps}"
            )

    def _said(self) -> str:
        """Return, for a sentence, the options that can move levels together."""
        return (
            " `whole_timesteps`" * self.whole_timesteps
            + f" `shift` {self.shift:g}" * (self.shift != 1)
            + " `final` least" * (self.final == "least")
        )


def _counted_down(schedule: Schedule, points: int) -> Values:
    """Return `trailing` in whole timesteps, counted as diffusers does: its errors decide ties."""
    span = schedule.first - schedule.clean
    return np.round(np.arange(span, 0, -span / points)[:points]) + schedule.clean
