"""Rounds of PIADM on Gaussian mixtures, in one process; see docs/piadm.md.

    python benchmarks/piadm.py frozen      # by what is frozen; in blocks, in one, on the diagonal
    python benchmarks/piadm.py steps       # while the step is halved
    python benchmarks/piadm.py dimension   # at a fixed error, for d = 2 .. 8192; draws a figure
    python benchmarks/piadm.py laws        # what is sampled, against exact samples

A mixture is given as --dimensions, --components, --distance between means (about), --variance.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from math import exp, expm1, log, sqrt
from pathlib import Path

import numpy as np
import torch
from scipy.stats import wasserstein_distance

import pint_diffusion as pd
from pint_diffusion.models.mixture import GaussianMixture
from pint_diffusion.runtime.events import EVALUATION_KINDS

SOLVERS = {"SDE": pd.OUSDE(), "ODE": pd.OUODE()}


def mixture(dimensions, components, distance, variance):
    """Components of equal weight and variance whose means are about ``distance`` apart."""
    means = np.random.default_rng(0).normal(size=(components, dimensions))
    means *= distance / sqrt(2) / np.linalg.norm(means, axis=1, keepdims=True)
    shares = np.full(components, 1 / components)
    device = torch.device("cpu")
    return GaussianMixture(
        means, np.full(components, variance), shares, device=device, dtype=torch.float64
    )


def sampled(network, method, solver, sigma_min, sigma_max=None, **given):
    """Draw samples on the grid of Chen et al., in float64."""
    spacing = pd.Spacing("ou", sigma_min=sigma_min, sigma_max=sigma_max, final="least")
    where = {"dtype": "float64", "device": "cpu", "comm": None}
    return pd.sample(network, method, solver, spacing=spacing, **where, **given)


def frozen(network, args):
    """Count rounds by what is frozen, and by schedule."""
    print("229 steps, tolerance 1e-3; rounds of the slowest sample (mean), most live, error")
    runs = {
        f"12 blocks, {what}": pd.PIADM(slices=12, freeze=what)
        for what in ("x0", "v", "increments", "eps")
    }
    runs["one block"] = pd.PIADM(slices=1)
    runs["12 blocks, diagonal"] = pd.PIADM("diagonal", slices=12)
    given = {"steps": 229, "samples": args.samples, "verify": True}
    for name, solver in SOLVERS.items():
        for label, method in runs.items():
            run = sampled(network, method, solver, args.sigma_min, **given)
            made = run.events[np.isin(run.events["kind"], EVALUATION_KINDS)]
            live = np.bincount(made["iteration"]).max()
            rounds, error = run.stopped_at, (run.samples - run.sequential).square().mean().sqrt()
            print(
                f"{name}  {label:22} {max(rounds):4} ({np.mean(rounds):4.1f}) {live:5} live "
                f"{run.evaluations:6} evaluations  {error:.1e}",
                flush=True,
            )


def steps(network, args):
    """Count rounds while the step is halved, for several noises."""
    for name, solver in SOLVERS.items():
        for count in (120, 240, 480, 960):
            given = {"steps": count, "samples": args.samples}
            rounds = [
                sampled(network, pd.PIADM(slices=12), solver, args.sigma_min, seed=seed, **given)
                for seed in range(3)
            ]
            mean = np.mean([run.stopped_at for run in rounds])
            print(f"{name}  {count:4} steps: {mean:.1f} rounds", flush=True)


def deviation(times, variance, stochastic):
    """Standard deviation that the sampler ends with where data is normal with a variance."""
    spread = 1.0
    for here, there in pairwise(times):
        growth = exp((here - there) / 2)
        pull = (2 if stochastic else 1) * (growth - 1)
        kept = growth - pull / (exp(-here) * variance - expm1(-here))
        spread = kept**2 * spread + (growth**2 - 1 if stochastic else 0)
    return sqrt(spread)


def times_of(horizon, stop, count):
    """Ornstein-Uhlenbeck times of the spacing ou."""
    clock = np.linspace(horizon, 1 + log(stop), count + 1)
    return np.where(clock > 1, clock, np.exp(np.minimum(clock, 1) - 1)).tolist()


def needed(dimensions, variance, error, stochastic):
    """Return horizon, early stop and steps, each wrong by a W2 distance of ``error`` in all.

    By the directions in which a mixture is normal: W2 = sqrt(d) |difference of deviations|.
    """
    each = error / sqrt(dimensions)
    stop = min(0.1, 2 * sqrt(variance) * each / (1 - variance))
    horizon = max(2.0, log(2 / each))
    truth = sqrt(exp(-stop) * variance - expm1(-stop))
    count = 8
    while abs(deviation(times_of(horizon, stop, count), variance, stochastic) - truth) > each:
        count += 1 + count // 10
    return horizon, stop, count


def dimension(args):
    """Count rounds against the dimension at a fixed error, and draw them."""
    rows = []
    for name, solver in SOLVERS.items():
        for d in (2, 16, 128, 1024, 8192):
            horizon, stop, count = needed(d, 0.25, args.error, name == "SDE")
            slices = round((horizon - log(stop)) / 1.5)
            run = sampled(
                mixture(d, 4, 3, 0.25),
                pd.PIADM(slices=slices, tolerance=0.1 * args.error / sqrt(d)),
                solver,
                sqrt(expm1(stop)),
                sqrt(expm1(horizon)),
                steps=count,
                samples=2,
                verify=True,
            )
            apart = (run.samples - run.sequential).flatten(1).norm(dim=1).max()
            rows.append((name, d, count, slices, max(run.stopped_at), float(apart)))
            print("{}  d {:5}  {:5} steps  {:2} blocks  {:3} rounds  {:.1e}".format(*rows[-1]))
        mine = [row for row in rows if row[0] == name]
        x, y = np.log([row[1] for row in mine]), [row[4] for row in mine]
        for power in (1, 2):
            slope, start = np.polyfit(x**power, y, 1)
            left = np.abs(y - start - slope * x**power).max()
            print(f"{name}  {start:.1f} + {slope:.2f} log^{power} d, off by at most {left:.1f}")
    if args.figure:
        draw(rows, args.figure)


def draw(rows, path):
    """Draw rounds and steps against the dimension."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
    for panel, name in zip(panels, SOLVERS, strict=True):
        mine = [row for row in rows if row[0] == name]
        d = [row[1] for row in mine]
        panel.loglog(d, [row[2] for row in mine], "s--", color="0.5", label="steps one by one")
        rounds = [row[4] for row in mine]
        panel.loglog(d, rounds, "o", label="rounds of PIADM")
        fine = np.geomspace(d[0], d[-1], 100)
        for power, line in ((1, "-"), (2, ":")):
            slope, start = np.polyfit(np.log(d) ** power, rounds, 1)
            text = f"{start:.2g} + {slope:.2g} log{'²' * (power == 2)} d"
            panel.plot(fine, start + slope * np.log(fine) ** power, line, color="C0", label=text)
        panel.set(title=f"PIADM-{name}", xlabel="dimension d")
        panel.legend()
    panels[0].set_ylabel("evaluations in a row")
    figure.savefig(path, dpi=120)


def laws(network, args):
    """Compare what is sampled with exact samples: means, covariances, sliced Wasserstein-1.

    The walk is sequential: with tolerance 0 PIADM ends in its bits.
    """
    count, draw_ = args.samples // 5000 * 5000, np.random.default_rng(1)
    exact, again = (drawn(args, 0.01, count, draw_) for _ in range(2))
    report("exact, again", again, exact)
    runs = {
        "SDE": (pd.OUSDE(), {}),
        "ODE": (pd.OUODE(), {}),
        "ODE, corrector": (pd.OUODE(), {"corrector": pd.Corrector(20)}),
    }
    for name, (solver, more) in runs.items():
        walk = pd.Sequential(slices=12 if more else None)
        given = {"steps": args.steps, "samples": 5000, **more}
        found = [
            sampled(network, walk, solver, 0.01, seed=seed, **given).samples.numpy()
            for seed in range(count // 5000)
        ]
        report(name, np.concatenate(found), exact)


def drawn(args, sigma, count, draw_):
    """Exact samples at a noise level."""
    network = np.random.default_rng(0).normal(size=(args.components, args.dimensions))
    network *= args.distance / sqrt(2) / np.linalg.norm(network, axis=1, keepdims=True)
    clean = network[draw_.integers(args.components, size=count)]
    clean = clean + sqrt(args.variance) * draw_.normal(size=clean.shape)
    return (clean + sigma * draw_.normal(size=clean.shape)) / sqrt(1 + sigma**2)


def report(name, one, other):
    """Print how far two sets of samples are apart."""
    ways = np.random.default_rng(2).normal(size=(32, one.shape[1]))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    mean = np.abs(one.mean(axis=0) - other.mean(axis=0)).max()
    whole = np.linalg.norm(np.cov(other.T))
    covariance = np.linalg.norm(np.cov(one.T) - np.cov(other.T)) / whole
    sliced = np.mean([wasserstein_distance(one @ way, other @ way) for way in ways])
    print(f"{name:15} mean {mean:.4f}  covariance {covariance:.4f}  sliced W1 {sliced:.4f}")


def main():
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["frozen", "steps", "dimension", "laws"])
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--distance", type=float, default=11.0)
    parser.add_argument("--variance", type=float, default=0.05)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--steps", type=int, default=240, help="of laws")
    parser.add_argument("--sigma-min", type=float, default=0.1, help="of the early stop")
    parser.add_argument("--error", type=float, default=0.1, help="of dimension, W2")
    parser.add_argument("--figure", type=Path, help="of dimension, a PNG file to write")
    args = parser.parse_args()
    if args.what == "dimension":
        dimension(args)
    else:
        network = mixture(args.dimensions, args.components, args.distance, args.variance)
        {"frozen": frozen, "steps": steps, "laws": laws}[args.what](network, args)


if __name__ == "__main__":
    main()
