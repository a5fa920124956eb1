"""Own CPU time per evaluation and per round, with a network that returns at once.

    python benchmarks/overhead.py [--against PATH] [--repeats 3] [--only window]

What is printed is microseconds of processor time of the whole process, all threads together: what a
run costs beside its network. It is the slope between a short and a longer run, so that what happens
once, as preparing a method or drawing pictures, is not in it. With ``--against`` another checkout
of the package is measured too, in turns with this one. Of the repeats the least is taken.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STEPS = 128
ROUNDS = {"window": {"window": 8}, "paradigms": {"window": 8}, "parataa": {"window": 8}}
CASES = {
    **{
        f"sequential, S = {samples}": {"method": "sequential", "samples": samples}
        for samples in (1, 16)
    },
    **{
        f"parareal, batching {batching}": {
            **{"method": "parareal", "slices": 16, "batching": batching, "samples": 1},
            **{"tolerance": 0},
        }
        for batching in ("off", "auto")
    },
    **{
        f"{method} 8, S = {samples}": {"method": method, "samples": samples, **options}
        for method, options in ROUNDS.items()
        for samples in ((1, 4, 16) if method == "window" else (1, 16))
    },
    **{
        f"piadm, slices of 8, S = {samples}": {
            **{"method": "piadm", "slices": STEPS // 8, "samples": samples}
        }
        for samples in (1, 16)
    },
}
"""Settings by the name that is printed."""


class Quick:
    """A network of one operation, whose answer is a little different in every state."""

    shape = (3, 8, 8)
    prediction = "epsilon"
    data_range = (-1.0, 1.0)
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

    def __call__(self, x, t, alpha_bar):
        """Return a share of the state."""
        return 0.9 * x


def quick(device, dtype):
    """Make the network, for the command."""
    return Quick()


def run(settings: dict, files: bool) -> tuple[int, int]:
    """Sample as the package of this checkout does; return iterations and evaluations.

    All that is called of the package is called here.
    """
    from pint_diffusion.build.from_settings import plan_of
    from pint_diffusion.commands.sample import run_job
    from pint_diffusion.run import solve
    from pint_diffusion.runtime.world import LocalWorld
    from pint_diffusion.settings.run import Settings

    if files:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            model = f"{Path(__file__).resolve()}:quick"
            given = Settings.from_flat(**settings, model=model, out=Path(folder) / "run")
            run_job(given, LocalWorld())
        return 0, 0
    done = solve(plan_of(Settings.from_flat(**settings), LocalWorld(), Quick()), LocalWorld())
    return done.iterations, done.evaluations + done.evaluations_wasted


def cost(case: dict, files: bool) -> float:
    """Microseconds per round, or per evaluation of a method that is not in rounds."""
    in_rounds = case["method"] in (*ROUNDS, "piadm")
    if in_rounds:
        case = case | {"steps": STEPS, "tolerance": 0}
        sizes = [{"max_iterations": 8}, {"max_iterations": 40}]
    else:
        sizes = [{"steps": 64}, {"steps": 256}]
    spent, made = [], []
    for size in sizes:
        iterations, evaluations = run(case | size, files=False)
        made.append(iterations if in_rounds else evaluations)
        begun = time.process_time()
        run(case | size, files)
        spent.append(time.process_time() - begun)
    return (spent[1] - spent[0]) / (made[1] - made[0]) * 1e6


def measure(only: str, files: bool) -> dict[str, float]:
    """Measure every case in this process."""
    import torch

    torch.set_num_threads(1)
    run({"method": "sequential", "samples": 1, "steps": 8}, files)  # imports
    return {name: cost(case, files) for name, case in CASES.items() if only in name}


def main() -> None:
    """Measure this checkout, and another one beside it, each in processes of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--measure", choices=["plain", "files"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.only, given.measure == "files")))
        return
    here = Path(__file__).resolve().parent.parent
    checkouts = [here] if given.against is None else [given.against.resolve(), here]
    columns = [(root, kind) for kind in ("plain", "files") for root in checkouts]
    found: dict[tuple[Path, str], list[dict[str, float]]] = {column: [] for column in columns}
    for _ in range(given.repeats):
        for root, kind in columns:
            command = [sys.executable, __file__, "--measure", kind, "--only", given.only]
            environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True, timeout=600
            )
            found[root, kind].append(json.loads(done.stdout.splitlines()[-1]))
    heads = ["this", "files"] if given.against is None else ["before", "now", "files before", "now"]
    print(f"{'us of own CPU time':32}", *(f"{head:>13}" for head in heads))
    for name in (name for name in CASES if given.only in name):
        least = (min(one[name] for one in found[column]) for column in columns)
        print(f"{name:32}", *(f"{value:13.0f}" for value in least))


if __name__ == "__main__":
    main()
