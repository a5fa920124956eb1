"""Iterations that every solver needs: the table of docs/solvers.md.

    python benchmarks/solver_table.py table.csv [--model ...] [--samples 4] ...

Takes the flags of ``pint-diffusion sample``. One process, M = sqrt(N), the default stop rule. Each
run appends a line, and runs that the file already has are left out.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pint_diffusion as pd
from pint_diffusion.build.from_settings import sampling_of
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.settings.reading import parse
from pint_diffusion.settings.run import Settings
from pint_diffusion.solvers import SOLVERS

STEPS = (25, 100, 400)


def runs():
    """(name in the table, flags) of every run."""
    for name, solver in SOLVERS.items():
        if solver.stochastic:
            for noise in ("none", "sum"):
                yield f"{name}, coarse noise {noise}", ["--solver", name, "--coarse-noise", noise]
        else:
            yield name, ["--solver", name]
    for name in ("dpmpp_2m", "unipc"):
        yield f"{name}, restart", ["--solver", name, "--history", "restart"]
    for noise in ("none", "sum"):
        churn = ["--churn", "8", "--churn-max", "50", "--coarse-noise", noise]
        yield f"heun, churn, coarse noise {noise}", ["--solver", "heun", *churn]


def main() -> None:
    """Run what is missing in the file: solver, N, iterations, evaluations deep, last change."""
    path, *flags = sys.argv[1:]
    table = Path(path)
    done = {(row[0], row[1]) for row in csv.reader(table.open())} if table.exists() else set()
    for steps in STEPS:
        for name, own in runs():
            if (name, str(steps)) in done:
                continue
            settings = parse(Settings, [*flags, *own, "--steps", str(steps)])
            run = pd.sample(**vars(sampling_of(settings, settings.method, LocalWorld())), comm=None)
            row = [name, steps, run.iterations, run.evaluations_deep, run.change[-1].max()]
            with table.open("a", newline="") as file:
                csv.writer(file).writerow(row)
            print(*row, flush=True)


if __name__ == "__main__":
    main()
