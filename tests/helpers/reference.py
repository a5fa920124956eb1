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
    """All boundary states u[k, n] of DDIM, shape (K + 1, M + 1, S, D)."""

    def fine(n, x):
        for i in range(bounds[n], bounds[n + 1]):
            x = ddim(mixture, x, levels[i], levels[i + 1])
        return x

    return iterate(
        fine, ddim_over(mixture, levels, bounds, coarse_steps), noise, bounds, iterations
    )


def parareal_2m(mixture, noise, levels, bounds, iterations, carry):
    """The same of DPM-Solver++(2M) with DDIM as G; a state is x and the last x0."""

    def fine(n, state):
        x, last = state if carry else (state[0], None)
        for i in range(bounds[n], bounds[n + 1]):
            x, last = dpmpp_2m(mixture, x, last, levels, i)
        return x, last

    coarse = ddim_over(mixture, levels, bounds, 1)
    slices = len(bounds) - 1
    u = [[(noise, None)] + [None] * slices for _ in range(iterations + 1)]
    for n in range(slices):
        u[0][n + 1] = coarse(n, u[0][n][0]), None
    for k in range(1, iterations + 1):
        for n in range(slices):
            x, last = fine(n, u[k - 1][n])
            if n >= k:
                x = x + (coarse(n, u[k][n][0]) - coarse(n, u[k - 1][n][0]))
            u[k][n + 1] = x, last
    return np.array([[x for x, _ in row] for row in u])


def parareal_ddpm(mixture, noise, levels, bounds, iterations, seed, shape):
    """The same of DDPM; G is one DDPM step with the noise that the fine ones leave at its end."""
    samples = len(noise)

    def fine(n, x):
        for i in range(bounds[n], bounds[n + 1]):
            x = ddpm(mixture, x, levels[i], levels[i + 1], step_noise(seed, samples, shape, i))
        return x

    def coarse(n, x):
        left = np.zeros_like(x)
        for i in range(bounds[n], bounds[n + 1]):  # what a walk with x0 = 0 from x = 0 ends at
            kept, deviation = ddpm_factors(levels[i], levels[i + 1])
            left = kept * left + deviation * step_noise(seed, samples, shape, i)
        here, there = levels[bounds[n]], levels[bounds[n + 1]]
        deviation = ddpm_factors(here, there)[1]
        return ddpm(mixture, x, here, there, left / deviation if deviation else left)

    return iterate(fine, coarse, noise, bounds, iterations)


def iterate(fine, coarse, noise, bounds, iterations):
    slices = len(bounds) - 1
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


def ddim_over(mixture, levels, bounds, coarse_steps):
    def coarse(n, x):
        length = bounds[n + 1] - bounds[n]
        steps = min(coarse_steps, length)
        picks = [bounds[n] + j * length // steps for j in range(steps + 1)]
        for i, j in pairwise(picks):
            x = ddim(mixture, x, levels[i], levels[j])
        return x

    return coarse


def dpmpp_2m(mixture, x, last, levels, i):
    here, there = levels[i], levels[i + 1]
    x0 = (x - np.sqrt(1 - here) * mixture.epsilon(x, here)) / np.sqrt(here)
    if there == 1:
        return x0, x0
    lam = [0.5 * np.log(a / (1 - a)) for a in levels[max(i - 1, 0) : i + 2]]
    seen = x0
    if last is not None:
        seen = x0 + (lam[-1] - lam[-2]) / (lam[-2] - lam[-3]) / 2 * (x0 - last)
    h = lam[-1] - lam[-2]
    return np.sqrt((1 - there) / (1 - here)) * x - np.sqrt(there) * np.expm1(-h) * seen, x0


def ddpm(mixture, x, here, there, xi):
    x0 = (x - np.sqrt(1 - here) * mixture.epsilon(x, here)) / np.sqrt(here)
    kept, deviation = ddpm_factors(here, there)
    return np.sqrt(there) * (1 - here / there) / (1 - here) * x0 + kept * x + deviation * xi


def ddpm_factors(here, there):
    """What a step keeps of x, and the standard deviation of its noise (fixed_small)."""
    alpha = here / there
    return (
        np.sqrt(alpha) * (1 - there) / (1 - here),
        np.sqrt((1 - there) / (1 - here) * (1 - alpha)),
    )


def step_noise(seed, samples, shape, i):
    """Of step i, (S, D): Philox keyed by seed and sample, at counter (i + 1) 2^192."""
    rows = []
    for sample in range(samples):
        bits = np.random.Philox(key=seed + (sample << 64), counter=(i + 1) << 192)
        rows.append(np.random.Generator(bits).standard_normal(shape).ravel())
    return np.array(rows)


def chords(mixture, noise, levels, starts):
    """Results of CHORDS with DDIM, (tick, x), coarsest first: cores side by side, tick by tick.

    Written as the authors' queue is: every tick each core that has begun evaluates its point, then
    cores move from the slowest to the fastest, by what was evaluated in this tick and before.
    """
    steps, last = len(levels) - 1, len(starts) - 1

    def step(x, eps, i, j):
        x0 = (x - np.sqrt(1 - levels[i]) * eps) / np.sqrt(levels[i])
        return np.sqrt(levels[j]) * x0 + np.sqrt(1 - levels[j]) * eps

    def see(x, i):
        return mixture.epsilon(x, levels[i]) if isinstance(mixture, Mixture) else mixture(x, i)

    running = [{"at": 0, "x": noise, "begin": [0, noise, None]}]
    results, tick = [], 0
    while any(core["at"] < steps for core in running):
        tick += 1
        active = [core for core in running if core["at"] < steps]
        for core in active:
            core["seen"] = core["at"], core["x"], see(core["x"], core["at"])
            if core["begin"][0] == core["at"]:
                core["begin"][2] = core["seen"][2]
        newest = len(running) - 1
        if running[newest]["at"] == starts[newest]:
            i, x, eps = running[newest]["seen"]
            if newest == last:
                results.append((tick, step(x, eps, i, steps)))
            else:
                j = starts[newest + 1]
                x = step(x, eps, i, j)
                running.append({"at": j, "x": x, "begin": [j, x, None]})
        for c, core in enumerate(active):
            i, x, eps = core["seen"]
            x = step(x, eps, i, i + 1)
            b, x_begin, eps_begin = core["begin"]
            if c and active[c - 1]["seen"][0] == b:
                _, x_slow, eps_slow = active[c - 1]["seen"]
                x = x - step(x_begin, eps_begin, b, i + 1) + step(x_slow, eps_slow, b, i + 1)
                core["begin"] = [i + 1, x, None]
            core["at"], core["x"] = i + 1, x
            if i + 1 == steps:
                results.append((tick, x))
    return results
