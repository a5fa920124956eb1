"""Wall clock of whole runs over MPI, files on: the window method against Parareal.

    python benchmarks/wall_clock.py [--against CHECKOUT] [--busy 2] [--runs 5]

Eight ranks on this machine, an emulated network of 50 ms a call (jobs/emulated.py), so that cores
are free for what the package itself does. The figure is N times 50 ms over the wall time: what the
sequential sampler would take at least, over what the run took. With ``--against`` the same runs are
made with the package of another checkout, in turn, so that both see the same machine; with
``--busy`` so many processes do nothing but compute meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import h5py

ROOT = Path(__file__).parents[1]
RANKS, CALL_MS = 8, 50
METHODS = {
    "window of 8": ["--method", "window", "--window", "8"],
    "Parareal, 8 slices": ["--slices", "8", "--placement", "slice"],
}
LONGEST = 120
"""Seconds that a run may take."""


def wall_time(checkout: Path, flags: list[str], steps: int) -> tuple[float, int]:
    """Make one run with the package of a checkout; return seconds and iterations."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PMI")}
    environment = clean | {
        "PYTHONPATH": str(checkout),
        "EMULATED_MS": str(CALL_MS),
        "OMP_NUM_THREADS": "1",
    }
    mpiexec = Path(sys.executable).with_name("mpiexec")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(str(mpiexec) if mpiexec.exists() else "mpiexec", "-n", str(RANKS)),
            *(sys.executable, "-m", "pint_diffusion", "sample", "--warmup", "--samples", "4"),
            *("--model", f"{ROOT}/jobs/emulated.py:factory", "--steps", str(steps)),
            *("--out", f"{folder}/run", *flags),
        ]
        bounds = {"check": True, "capture_output": True, "timeout": LONGEST}
        subprocess.run(command, env=environment, cwd=checkout, **bounds)  # -m looks there first
        with h5py.File(f"{folder}/run/run.h5") as file:
            return float(file.attrs["wall_time"]), int(file.attrs["iterations"])


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Let so many processes compute meanwhile."""
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Make the runs in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout of the package")
    parser.add_argument("--busy", type=int, default=0, help="processes that compute meanwhile")
    parser.add_argument("--runs", type=int, default=5, help="runs of each kind")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 100])
    given = parser.parse_args()
    checkouts = {"here": ROOT} | ({"there": given.against} if given.against else {})
    print(f"{RANKS} ranks, {CALL_MS} ms a call, files on, {given.busy} busy processes beside them")
    print(f"{'N':>4}  {'method':<20}{'checkout':<10}{'iterations':>10}{'s, best':>9}"
          f"{'median':>9}{'speed-up':>10}")  # fmt: skip
    with busy(given.busy):
        for steps in given.steps:
            for name, flags in METHODS.items():
                times: dict[str, list[float]] = {where: [] for where in checkouts}
                iterations = {}
                for _ in range(given.runs):
                    for where, checkout in checkouts.items():
                        seconds, iterations[where] = wall_time(checkout, flags, steps)
                        times[where].append(seconds)
                for where, seconds in times.items():
                    gain = steps * CALL_MS / 1000 / median(seconds)
                    print(f"{steps:>4}  {name:<20}{where:<10}{iterations[where]:>10}"
                          f"{min(seconds):>9.2f}{median(seconds):>9.2f}{gain:>10.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
