"""Parareal for a Gaussian mixture in plain numpy loops: independent of the package."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


class Mixture:
    """Closed-form epsilon of a mixture of isotropic Gaussians; x has shape (S, D)."""

    def __init__(self, path):
        with np.load(path) as file:
            means = file["means"]
            self.shape = means.shape[1:]
            self.means = means.reshape(len(means), -1)
            self.variances, self.weights = file["variances"], file["weights"]

    def epsilon(self, x, alpha_bar):
        spread = alpha_bar * self.variances + 1 - alpha_bar
        offset = x[:, None] - np.sqrt(alpha_bar) * self.means
        log = np.log(self.weights) - 0.5 * x.shape[1] * np.log(spread)
        log = log - 0.5 * np.square(offset).sum(axis=2) / spread
        share = np.exp(log - log.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        return np.sqrt(1 - alpha_bar) * (share[..., None] * offset / spread[:, None]).sum(axis=1)


def alpha_bars(steps, training_steps=1000):
    """Trailing levels of the linear DDPM schedule, log-interpolated, clean level last."""
    log = np.log(np.cumprod(1 - np.linspace(1e-4, 0.02, training_steps)))
    t = training_steps * (1 - np.arange(steps + 1) / steps) - 1
    return np.exp(np.interp(t, np.arange(-1, training_steps), np.concatenate([[0], log])))


def ddim(mixture, x, here, there):
    eps = mixture.epsilon(x, here)
    x0 = (x - np.sqrt(1 - here) * eps) / np.sqrt(here)
    return np.sqrt(there) * x0 + np.sqrt(1 - there) * eps


def parareal(mixture, noise, levels, bounds, iterations, coarse_steps=1):
    """All boundary states u[k, n], shape (K + 1, M + 1, S, D)."""
    slices = len(bounds) - 1

    def fine(n, x):
        for i in range(bounds[n], bounds[n + 1]):
            x = ddim(mixture, x, levels[i], levels[i + 1])
        return x

    def coarse(n, x):
        length = bounds[n + 1] - bounds[n]
        steps = min(coarse_steps, length)
        picks = [bounds[n] + j * length // steps for j in range(steps + 1)]
        for i, j in pairwise(picks):
            x = ddim(mixture, x, levels[i], levels[j])
        return x

    u = np.empty((iterations + 1, slices + 1, *noise.shape))
    u[:, 0] = noise
    for n in range(slices):
        u[0, n + 1] = coarse(n, u[0, n])
    for k in range(1, iterations + 1):
        ends = [fine(n, u[k - 1, n]) for n in range(slices)]
        for n in range(slices):
            u[k, n + 1] = ends[n]
            if n >= k:
                u[k, n + 1] += coarse(n, u[k, n]) - coarse(n, u[k - 1, n])
    return u
