"""How far Parareal is from the sequential sampler after every iteration, in one process.

    python benchmarks/error_per_iteration.py --model NAME --steps 100 --max-iterations 5 ...

takes the flags of ``pint-diffusion sample``. It goes on for ``--max-iterations`` whatever the
changes are, and says at which iteration ``--tolerance`` would have ended the run. The table is
printed and written to ``errors.csv`` in the folder ``--out``.
"""

from __future__ import annotations

import csv
import sys

import numpy as np
import torch

from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.numerics.convergence import StopRule
from pint_diffusion.output import Answers
from pint_diffusion.run import solve, solve_sequentially
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.settings.reading import parse
from pint_diffusion.settings.run import Settings

COLUMNS = ("k", "all", "median", "worst", "of 255", "change")


def errors_per_iteration(settings: Settings, denoiser=None):
    """Run both samplers.

    Returns
    -------
    rows : list of tuple
        One per iteration k = 0, 1, ..., see `COLUMNS`: the error of the last boundary state
        against the sequential one, relative in L2, over all samples together, of the median and
        of the worst one; the mean absolute error over all values, and the greatest mean absolute
        change of a sample since k - 1 (nan at 0), both in 1/255 of the data range.
    stopped_at : array, shape (S,)
        Iteration at which each sample would have met the tolerance, 0: at none of these.
    seconds : tuple of float
        Wall time of the sequential sampler and of the iteration.
    """
    endless = Settings.from_flat(settings.told(), tolerance=1e-300)
    plan, memory = plan_of(endless, LocalWorld(), denoiser), Answers()
    low, high = plan.problem.stop_rule.data_range
    sequential, run = solve_sequentially(plan), solve(plan, LocalWorld(), [memory])
    truth = sequential.samples.double().flatten(1)
    rows = []
    for k, answer in enumerate(memory.answers):
        apart, size = answer.double().flatten(1) - truth, torch.linalg.vector_norm(truth, dim=1)
        each = (torch.linalg.vector_norm(apart, dim=1) / size).numpy()
        every = float(torch.linalg.vector_norm(apart) / torch.linalg.vector_norm(truth))
        of_255 = float(255 / (high - low) * apart.abs().mean())
        change = run.change[k - 1].max() if k else np.nan
        rows.append((k, every, np.median(each), each.max(), of_255, change))
    rule = StopRule(settings.method.tolerance, (low, high))
    ended = rule.outcome([*run.change], True, False, settings.samples)
    return rows, ended.stopped_at, (sequential.wall_time, run.wall_time)


def main() -> None:
    """Print and write the table of the run that the flags describe."""
    settings = parse(Settings, sys.argv[1:])
    torch.set_num_threads(settings.threads or 1)
    rows, stopped_at, (sequential, parareal) = errors_per_iteration(settings)
    print("  k " + " ".join(f"{name:>9}" for name in COLUMNS[1:]))
    for k, *values in rows:
        print(f"{k:3d} " + " ".join(f"{value:9.1e}" for value in values))
    print(
        f"iterations to {settings.method.tolerance:g}/255 for each sample (0: not reached): "
        f"{' '.join(map(str, stopped_at))}; sequential {sequential:.1f} s, this {parareal:.1f} s"
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    with open(settings.out / "errors.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows(rows)


if __name__ == "__main__":
    main()
