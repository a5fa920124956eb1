"""Own CPU time per evaluation and per round, with a network that returns at once.

    python benchmarks/overhead.py [--against CHECKOUT] [--repeats 8] [--only window]

What is printed is microseconds of processor time of the whole process, all threads together: what a
run costs beside its network. It is the slope between a short and a longer run, in evaluations or
rounds, so that what happens once, such as preparing a method or closing files, is not in it. Of
each run the least of the repeats counts. The network is one multiplication of (S, 3, 8, 8) values;
tolerance 0, so nothing ends early.

With ``--against`` the package of another checkout is measured too, run by run in turns with this
one, each in a process of its own. A checkout is called by `new` or, if it is of before the door
`pint_diffusion.sample`, by `old`. With files the new one has the output `Files` and the old one its
command, but for reading back and pictures: its lines of progress are in its figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """A row of the table: flat options of the method, and what makes its runs longer.

    Attributes
    ----------
    method : str
        Name of the method.
    options : dict
        Of the method and of the run.
    grows : str
        The option that makes runs longer.
    sizes : tuple of int
        Its two values.
    unit : {"evaluation", "round"}
        What the cost is divided by.
    """

    method: str
    options: dict
    grows: str
    sizes: tuple[int, int]
    unit: str

    def flat(self, longer: bool) -> dict:
        """Return all options of the short or of the longer run."""
        least = {"method": self.method, "samples": 1, "steps": 128, "tolerance": 0}
        return least | self.options | {self.grows: self.sizes[longer]}


def rounds(method: str, samples: int, **options: int) -> Case:
    """Return the row of a method in rounds."""
    options["samples"] = samples
    return Case(method, options, "max_iterations", (8, 88 if samples == 1 else 40), "round")


def parareal(batching: str) -> Case:
    """Return the row of Parareal with one evaluation per call, or with as many as are ready."""
    options = {"slices": 16, "batching": batching}
    return Case("parareal", options, "max_iterations", (2, 8), "evaluation")


CASES = {
    "sequential": Case("sequential", {}, "steps", (64, 512), "evaluation"),
    "Parareal, batching off": parareal("off"),
    "Parareal, batching auto": parareal("auto"),
    **{f"window 8, S = {samples}": rounds("window", samples, window=8) for samples in (1, 4, 16)},
    "ParaDiGMS 8": rounds("paradigms", 1, window=8),
    "ParaTAA 8": rounds("parataa", 1, window=8),
    "PIADM, slices of 8": rounds("piadm", 1, slices=16),
}


class Quick:
    """A network of one operation, whose answer is a little different in every state."""

    shape = (3, 8, 8)
    prediction = "epsilon"
    data_range = (-1.0, 1.0)
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

    def __call__(self, x, t, alpha_bar):
        """Return a share of the state."""
        return 0.9 * x


def new(given: dict, folder: Path | None) -> tuple[int, int]:
    """Sample through the door; return rounds and evaluations."""
    import pint_diffusion as pd
    from pint_diffusion.methods import METHODS

    run_options = {
        name: given.pop(name) for name in ("samples", "steps", "batching") & given.keys()
    }
    method = METHODS.find(given.pop("method"))(**given)
    outputs = [] if folder is None else [pd.Files(folder)]
    run = pd.sample(Quick(), method, outputs=outputs, comm=None, device="cpu", **run_options)
    return run.iterations, run.evaluations + run.evaluations_wasted


def old(given: dict, folder: Path | None) -> tuple[int, int]:
    """Sample as of before the door; return rounds and evaluations, known without files only."""
    from pint_diffusion.config import Settings
    from pint_diffusion.sampling import make_plan, solve

    from pint_diffusion import job
    from pint_diffusion.runtime.events import EVALUATION_KINDS, EventLog
    from pint_diffusion.runtime.world import World

    if folder is not None:
        job.read_and_draw = lambda *_: None
        job.run_job(Settings(**given, threads=1, out=folder), World(), Quick())
        return 0, 0
    log = EventLog(0)
    plan = make_plan(Settings(**given), World(), Quick())
    solution = solve(plan, World(), log, lambda *_: None, lambda *_: None)
    made = int(np.isin(log.table()["kind"], EVALUATION_KINDS).sum())
    return solution.outcome.iterations, made


def serve() -> None:
    """Make the runs that standard input asks for; answer with rounds, evaluations and seconds."""
    import torch

    import pint_diffusion

    torch.set_num_threads(1)
    made_by = new if hasattr(pint_diffusion, "sample") else old
    answers, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115
    for line in sys.stdin:
        name, longer, files = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            counts = made_by(CASES[name].flat(longer), Path(folder) / "run" if files else None)
            print(json.dumps([*counts, time.process_time() - begun]), file=answers, flush=True)


@contextlib.contextmanager
def served(checkout: Path) -> Iterator[Callable[..., list]]:
    """Start a process with the package of a checkout; yield a function that asks it for a run."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [sys.executable, __file__, "--serve"], env=environment, stderr=said, **pipes
        ) as process,
    ):

        def ask(*what: object) -> list:
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                said.seek(0)
                raise RuntimeError(f"{checkout}: {said.read()}")
            return json.loads(answer)

        yield ask
        process.stdin.close()


def costs(name: str, checkouts: list[Callable[..., list]], repeats: int) -> list[list[float]]:
    """Return microseconds per unit of a row, without and with files, for each checkout."""
    least, made = {}, {}
    unit = ("round", "evaluation").index(CASES[name].unit)
    for repeat in range(repeats + 1):
        for files in (False, True):
            for longer in (False, True):
                for one, ask in enumerate(checkouts):
                    *counts, seconds = ask(name, longer, files)
                    if not files:
                        made[one, longer] = counts[unit]
                    if repeat:  # the first one imports
                        key = one, files, longer
                        least[key] = min(seconds, least.get(key, seconds))
    return [
        [
            1e6
            * (least[one, files, True] - least[one, files, False])
            / (made[one, True] - made[one, False])
            for files in (False, True)
        ]
        for one in range(len(checkouts))
    ]


def main() -> None:
    """Measure this checkout, and another one beside it; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout of the package")
    parser.add_argument("--repeats", type=int, default=8, help="runs of each kind")
    parser.add_argument("--only", default="", help="rows with this in their name")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    roots = {"before": given.against.resolve()} if given.against else {}
    roots["now"] = ROOT
    with contextlib.ExitStack() as held:
        checkouts = [held.enter_context(served(root)) for root in roots.values()]
        head = "".join(f"{f'{when}, no files':>18}{'files':>8}{'ratio':>7}" for when in roots)
        print(f"{'us of own CPU time per':<36}{head}")
        for name in (name for name in CASES if given.only in name):
            cells = "".join(
                f"{bare:18.0f}{files:8.0f}{files / bare:7.2f}"
                for bare, files in costs(name, checkouts, given.repeats)
            )
            print(f"{name:<25}{CASES[name].unit:<11}{cells}", flush=True)


if __name__ == "__main__":
    main()
