"""Iterations that every solver needs: the table of docs/solvers.md.

    python benchmarks/solver_table.py table.csv [--model ...] [--samples 4] ...

Takes the flags of ``pint-diffusion sample``. One process, M = sqrt(N), the default stop rule. Each
run appends a line, and runs that the file already has are left out.
"""

from __future__ import annotations

import csv
import sys
from math import isqrt
from pathlib import Path

import pint_diffusion as pd
from pint_diffusion.build.from_settings import sampling_of
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.settings.reading import parse
from pint_diffusion.settings.run import Settings
from pint_diffusion.solvers import SOLVERS

STEPS = (25, 100, 400)


def runs():
    """(name in the table, solver, noise of the coarse steps) of every run."""
    for name, kind in SOLVERS.items():
        if kind().stochastic:
            for noise in ("none", "sum"):
                yield f"{name}, coarse noise {noise}", kind(), noise
        else:
            yield name, kind(), None
    yield "dpmpp_2m, no carry", pd.DPMpp2M(carry=False), None
    yield "unipc, no carry", pd.UniPC(carry=False), None
    for noise in ("none", "sum"):
        yield f"heun, churn, coarse noise {noise}", pd.Heun(churn=8, churn_max=50), noise


def main() -> None:
    """Run what is missing in the file: solver, N, iterations, evaluations deep, last change."""
    path, *flags = sys.argv[1:]
    table = Path(path)
    done = {(row[0], row[1]) for row in csv.reader(table.open())} if table.exists() else set()
    settings = parse(Settings, flags)
    given = vars(sampling_of(settings, settings.method, LocalWorld())) | {"comm": None}
    for steps in STEPS:
        given |= {"steps": steps, "method": pd.Parareal(slices=isqrt(steps))}
        for name, solver, noise in runs():
            if (name, str(steps)) in done:
                continue
            run = pd.sample(**given | {"solver": solver, "coarse": pd.Coarse(noise=noise)})
            row = [name, steps, run.iterations, run.evaluations_deep, run.change[-1].max()]
            with table.open("a", newline="") as file:
                csv.writer(file).writerow(row)
            print(*row, flush=True)


if __name__ == "__main__":
    main()
