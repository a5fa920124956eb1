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

import pint_diffusion as pd
from pint_diffusion.build.from_settings import sampling_of
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.settings.reading import parse
from pint_diffusion.settings.run import Settings

COLUMNS = ("k", "all", "median", "worst", "of 255", "change")


def rows_of(run: pd.Run, data_range: tuple[float, float]):
    """Yield a row per iteration k = 0, 1, ..., see `COLUMNS`.

    It has the error against the sequential answer, relative in L2, over all samples together, of
    the median and of the worst one; the mean absolute error over all values, and the greatest mean
    absolute change of a sample since k - 1 (nan at 0), both in 1/255 of the data range.
    """
    truth = run.sequential.double().flatten(1)
    size = truth.norm(dim=1)
    changes = [np.nan, *run.change.max(axis=1)]
    for k, (answer, change) in enumerate(zip(run.iterates, changes, strict=True)):
        apart = answer.double().flatten(1) - truth
        each = (apart.norm(dim=1) / size).numpy()
        of_255 = 255 / (data_range[1] - data_range[0]) * float(apart.abs().mean())
        yield k, float(apart.norm() / truth.norm()), np.median(each), each.max(), of_255, change


def main() -> None:
    """Print and write the table of the run that the flags describe."""
    settings = parse(Settings, sys.argv[1:])
    torch.set_num_threads(settings.threads or 1)
    tolerance = settings.method.tolerance
    endless = settings.method.model_copy(update={"tolerance": 1e-300})
    asked = sampling_of(settings, endless, LocalWorld())
    run = pd.sample(**vars(asked), comm=None, verify=True)
    rows = [*rows_of(run, asked.network.data_range)]
    print("  k " + " ".join(f"{name:>9}" for name in COLUMNS[1:]))
    for k, *values in rows:
        print(f"{k:3d} " + " ".join(f"{value:9.1e}" for value in values))
    passed = run.change < tolerance
    stopped_at = np.where(passed.any(axis=0), passed.argmax(axis=0) + 1, 0)
    print(
        f"iterations to {tolerance:g}/255 for each sample (0: not reached): "
        f"{' '.join(map(str, stopped_at))}; sequential {run.sequential_wall_time:.1f} s, "
        f"this {run.wall_time:.1f} s"
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    with open(settings.out / "errors.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows(rows)


if __name__ == "__main__":
    main()
