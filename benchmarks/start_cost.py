"""What the checks at the start of a run cost: the same job with all of them and with none.

    python benchmarks/start_cost.py [--runs 3] [--only emulated bundled]

Four ranks on this machine. A job is `pint-diffusion sample`, from its start to its end; jobs with
the checks and without are made in turn, so that both see the same machine. The parts are seconds in
each check, of the rank that took longest, and are part of the first figure. ``--model`` measures
another network, with the flags that follow it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
RANKS = 4
JOBS = {
    "emulated": [
        *("--model", f"{ROOT}/jobs/emulated.py:factory", "--steps", "144", "--slices", "12"),
        *("--samples", "4", "--placement", "slice"),
    ],
    "bundled": ["--steps", "49", "--slices", "7", "--samples", "4", "--placement", "slice"],
}
CHECKS = {
    "refuse_or_warn": "launcher, cores, memory",
    "refuse_differences": "settings, devices, weights",
    "refuse_dependent_rows": "rows, answers of ranks",
}
"""Functions of the command, and what they look at."""
LONGEST = 300
"""Seconds that a job may take."""


def job(checked: bool, flags: list[str]) -> tuple[float, dict[str, float]]:
    """Run a job; return its seconds, and those of each check."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PMI")}
    environment = clean | {"EMULATED_MS": "50", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    mpiexec = Path(sys.executable).with_name("mpiexec")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(str(mpiexec) if mpiexec.exists() else "mpiexec", "-n", str(RANKS), sys.executable),
            *(__file__, "--rank", "with" if checked else "without"),
            *("sample", "--out", f"{folder}/run", *flags),
        ]
        bounds = {"check": True, "stdout": subprocess.PIPE, "timeout": LONGEST}
        begun = time.perf_counter()
        ended = subprocess.run(
            command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL, **bounds
        )
        seconds = time.perf_counter() - begun
    return seconds, json.loads(ended.stdout.splitlines()[-1])


def rank(checked: bool, arguments: list[str]) -> None:
    """Be a rank of a job: run the command with its checks timed, or without them."""
    from pint_diffusion.commands import sample
    from pint_diffusion.commands.cli import main
    from pint_diffusion.runtime.world import open_world

    took = dict.fromkeys(CHECKS, 0.0)

    def timed(name: str) -> Callable[..., Any]:
        check = getattr(sample, name)

        def run(*given: Any) -> Any:
            begun = time.perf_counter()
            check(*given)
            took[name] += time.perf_counter() - begun

        return run if checked else lambda *given: None

    for name in CHECKS:
        setattr(sample, name, timed(name))
    if not checked:
        arguments = [*arguments, "--trust-rows"]
    code = main(arguments)
    world = open_world("auto")
    all_of_them = world.gather(took)
    if world.rank == 0:
        print(json.dumps({name: max(one[name] for one in all_of_them) for name in CHECKS}))
    sys.exit(0 if code == 3 else code)


def main() -> None:
    """Make the jobs in turn and print a table."""
    if sys.argv[1:2] == ["--rank"]:
        rank(sys.argv[2] == "with", sys.argv[3:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="jobs of each kind")
    parser.add_argument("--only", nargs="+", choices=JOBS, default=[*JOBS])
    parser.add_argument("--model", nargs=argparse.REMAINDER, help="instead, with flags")
    given = parser.parse_args()
    jobs = {name: JOBS[name] for name in given.only}
    if given.model:
        jobs = {given.model[0]: ["--model", *given.model]}
    print(f"{RANKS} ranks, {given.runs} jobs of each kind; median seconds")
    for name, flags in jobs.items():
        times: dict[bool, list[float]] = {True: [], False: []}
        parts: list[dict[str, float]] = []
        for turn in range(given.runs):
            for checked in (True, False) if turn % 2 else (False, True):
                seconds, took = job(checked, flags)
                times[checked].append(seconds)
                parts += [took] if checked else []
        most, least = median(times[True]), median(times[False])
        print(f"{name}: {most:.2f} with all checks, {least:.2f} with none; {most - least:+.2f} s")
        for check, told in CHECKS.items():
            print(f"    {median(one[check] for one in parts):.3f}  {told}")


if __name__ == "__main__":
    main()
