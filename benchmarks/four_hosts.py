"""The wavefront on four emulated hosts, 1 ms and 1 Gbit/s apart, against its bound. Needs root.

    python benchmarks/four_hosts.py [ROUNDS]

8 ranks, two on each host, 100 ms per network call, M = B = 8, k = 3; states of 4 MB and of 256
bytes. Every round makes one run with files and one without, each in processes of their own, as a
user would start them. Printed are all wall times, and how the best of them compare with the bound
of kB + M - k evaluations plus the time on the wire, see `wire_time`.

Ranks and switch go before other jobs of this machine (nice -10).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np

SLICES = LENGTH = RANKS = 8
ITERATIONS, COUNT, DELAY, RATE, SECONDS = 3, 4, 1e-3, 1e9, 0.1
SIDES = {"4 MB": 1024, "256 B": 8}
FIRST = ["sh", "-c", 'echo -20 >/proc/self/autogroup; exec nice -n -10 "$@"', "sh"]


class Emulated:
    """Sleeps what is left of the emulated time of a call, after a little arithmetic."""

    side = int(os.environ.get("EMULATED_SIDE", "1024"))
    seconds = float(os.environ.get("EMULATED_MS", "100")) / 1000
    shape = (1, side, side)
    prediction = "epsilon"
    data_range = (-1.0, 1.0)
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

    def __call__(self, x, t, alpha_bar):
        """Evaluate, then sleep."""
        start = time.perf_counter()
        out = x.tanh_()
        time.sleep(max(0.0, self.seconds - (time.perf_counter() - start)))
        return out


def factory(device, dtype):
    """Make the network; for ``--model``."""
    return Emulated()


def wire_time(placement: str, size: int) -> float:
    """Seconds on the wire: bytes / rate + delay of the critical path's messages between hosts.

    That is the difference of two times of u_M^k by the recursion of the bound, with messages that
    take this long and with messages that take no time. With ``slice`` u_{n+1}^k goes from the rank
    of slice n to that of n + 1: every path has M of these messages. With ``root`` every fine solve
    on a path costs two, its start state's way from rank 0 and its end state's way back. Headers,
    TCP's slow start and waiting for a link that others use are not counted.
    """

    def hop(sender: int, receiver: int, message: float) -> float:
        each = RANKS // COUNT
        return message if sender // each != receiver // each else 0.0

    def made(message: float) -> float:
        def maker(n: int) -> int:
            return n - 1 if placement == "slice" and n > 0 else 0

        @cache
        def at(n: int, k: int) -> float:
            if n == 0 or k > n:
                return 0.0 if n == 0 else at(n, n)
            owner, corrector = n - 1, maker(n)
            coarse = at(n - 1, k) + hop(maker(n - 1), corrector, message) + SECONDS
            if k == 0:
                return coarse
            fine = at(n - 1, k - 1) + hop(maker(n - 1), owner, message) + LENGTH * SECONDS
            return max(coarse, fine + hop(owner, corrector, message))

        return at(SLICES, ITERATIONS) + hop(maker(SLICES), 0, message)

    return made(8 * size / RATE + DELAY) - made(0.0)


def flags(placement: str, out: Path) -> list[str]:
    """Flags of the run for ``pint-diffusion sample``."""
    given = {
        "model": f"{__file__}:factory",
        "steps": SLICES * LENGTH,
        "slices": SLICES,
        "samples": 1,
        "max-iterations": ITERATIONS,
        "tolerance": 1e-9,
        "placement": placement,
        "out": out,
    }
    return [f"--{name}={value}" for name, value in given.items()]


def without_files(placement: str) -> None:
    """Make the run on this rank and write nothing; rank 0 prints its wall time."""
    import torch

    import pint_diffusion as pd
    from pint_diffusion.runtime.device import keep_memory

    torch.set_num_threads(1)
    keep_memory()
    network = Emulated()
    network(torch.zeros(1, *network.shape), None, None)
    method = pd.Parareal(placement, slices=SLICES, max_iterations=ITERATIONS, tolerance=1e-9)
    run = pd.sample(network, method, steps=SLICES * LENGTH)
    if run.samples is not None:
        print(run.wall_time)


def measure(hosts, placement: str, side: int, files: bool) -> float:
    """Make a run on the hosts and return its wall time in seconds."""
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        program = ["-m", "mpi4py", __file__, "--bare", placement]
        if files:
            given = flags(placement, Path(folder) / "run")
            program = ["-m", "pint_diffusion", "sample", "--warmup", *given]
        process = hosts.start(
            RANKS,
            [*FIRST, sys.executable, *program],
            EMULATED_SIDE=str(side),
            EMULATED_MS=f"{1000 * SECONDS:g}",
        )
        out, err = process.communicate(timeout=120)
        if process.returncode not in (0, 3):  # 3: the tolerance is not to be met
            raise RuntimeError(f"exit code {process.returncode}: {out}{err}")
        if not files:
            return float(out)
        with h5py.File(Path(folder) / "run" / "run.h5") as run:
            return float(run.attrs["wall_time"])


def main(rounds: int) -> None:
    """Measure and print."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from helpers.hosts import Hosts

    bound = (ITERATIONS * LENGTH + SLICES - ITERATIONS) * SECONDS
    with Hosts(COUNT, DELAY, RATE, before=FIRST) as hosts:
        for name, side in SIDES.items():
            for placement in ("slice", "root"):
                walls: dict[bool, list[float]] = {True: [], False: []}
                for _ in range(rounds):
                    for files, seconds in walls.items():
                        seconds.append(measure(hosts, placement, side, files))
                wire = wire_time(placement, 4 * side**2)
                best, bare = min(walls[True]), min(walls[False])
                print(f"{placement}, {name}: bound {bound:.2f} s + wire {wire:.3f} s")
                for files, seconds in walls.items():
                    what = "with files   " if files else "without files"
                    print(f"  {what} {' '.join(f'{wall:.3f}' for wall in seconds)} s")
                ratio = f"{best / (bound + wire):.3f} of bound and wire"
                cost = f"{100 * (best / bare - 1):+.1f} % best, "
                middle = 100 * (np.median(walls[True]) / np.median(walls[False]) - 1)
                print(f"  best {ratio}; files cost {cost}{middle:+.1f} % median", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        without_files(sys.argv[2])
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 3)
