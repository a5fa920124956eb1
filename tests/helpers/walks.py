"""Walk a grid with a solver alone: no runtime, a closed-form network, all samples at once."""

from __future__ import annotations

import numpy as np
import torch

from pint_diffusion.grid import Level, SigmaSchedule, TimeGrid
from pint_diffusion.models.mixture import GaussianMixture
from pint_diffusion.numerics.levels import as_column
from pint_diffusion.numerics.prediction import predict
from pint_diffusion.solvers import Propagator


def now(coroutine):
    """Drive a coroutine whose evaluations are made at once."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it awaited something that was not there")


class Study:
    """A mixture of three Gaussians in the plane, on noise levels from ``high`` to ``low``."""

    def __init__(self, high=20.0, low=0.05):
        self.means = np.array([[-0.8, 0.3], [0.6, 0.7], [0.3, -0.9]])
        self.variances, self.weights = np.array([0.05, 0.1, 0.2]), np.array([0.3, 0.5, 0.2])
        self.mixture = GaussianMixture(
            self.means, self.variances, self.weights, torch.device("cpu"), torch.float64
        )
        self.high, self.low = high, low
        self.schedule = SigmaSchedule(low, high)

    def levels(self, steps, clean=False):
        """Equal steps in log sigma, and then one to clean data."""
        sigma = np.geomspace(self.high, self.low, steps + (not clean)).tolist()
        sigma = [self.high, *sigma[1:-1], self.low, *([0.0] if clean else [])]
        return tuple(Level(s, 1 / (1 + s * s)) for s in sigma)

    def see(self, x, level):
        alpha_bar = torch.full((len(x),), level.alpha_bar, dtype=torch.float64)
        return predict("epsilon", x, self.mixture(x, None, alpha_bar), *coefficients(x, alpha_bar))

    async def evaluate(self, x, level):
        return self.see(x, level)

    def propagator(self, solver, levels, noise=None):
        grid = TimeGrid(levels, (0, len(levels) - 1))
        return Propagator(solver, grid, self.schedule, noise or (lambda i: None))

    def walk(self, solver, levels, x, noise=None):
        propagator = self.propagator(solver, levels, noise)
        return now(propagator(self.evaluate, propagator.start(x), 0, 0))[0]


def slope(steps, errors):
    """Fitted order of accuracy."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def coefficients(x, alpha_bar):
    """Signal and noise coefficient of rows at ``alpha_bar`` (R,), as `predict` takes them.

    By numpy, whose square root is the nearest number; torch's is not always.
    """
    levels = alpha_bar.double().numpy()
    return tuple(as_column(torch.from_numpy(np.sqrt(c)), x) for c in (levels, 1 - levels))
