"""Runs one after another in one process, or one long run: what grows meanwhile.

    python tests/helpers/soak.py runs COUNT FOLDER     methods in turn, each second run with files
    python tests/helpers/soak.py rounds COUNT FOLDER   one run of the window method, a point a round
    python tests/helpers/soak.py slices COUNT FOLDER   one run of Parareal with so many iterations

Also under mpiexec. Rank 0 prints a line of JSON for each tenth of the runs or iterations: what
`measure` finds, of this process or the most of any rank.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import torch

import pint_diffusion as pd
from pint_diffusion.runtime.launcher import read_launcher

METHODS = [
    lambda: pd.Parareal(slices=4, placement="root", tolerance=3),
    lambda: pd.Parareal(slices=4, placement="slice", tolerance=3),
    lambda: pd.Window(window=4, tolerance=0.01),
    lambda: pd.ParaDiGMS(window=4, tolerance=0.05),
    lambda: pd.PIADM(slices=4, tolerance=0.01),
    lambda: pd.ParaTAA(window=4, order=2, tolerance=0.05),
    lambda: pd.Chords(cores=4, tolerance=3),
    pd.Sequential,
]
STEPS, SAMPLES = 16, 2
TENTHS = 10


class Network:
    """Returns at once; converges a little in every iteration."""

    shape = (1, 4, 4)
    prediction = "sample"
    data_range = (-1.0, 1.0)
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

    def __call__(self, x, t, alpha_bar):
        return torch.tanh(2 * x)


def measure(folder: Path) -> dict[str, int]:
    """Return what this process holds, in numbers and kilobytes, and what lies in a folder."""
    gc.collect()
    status = Path("/proc/self/status").read_text().split()
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # it was deleted, or has its name by now
            sizes += [path.stat().st_size] if path.is_file() else []
    return {
        "memory": int(status[status.index("VmRSS:") + 1]),
        "threads": threading.active_count(),
        "threads of the system": int(status[status.index("Threads:") + 1]),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
        "communicators": COMMUNICATORS[0],
        "files": len(sizes),
        "kilobytes": sum(sizes) // 1024,
    }


COMMUNICATORS = [0]
"""How many duplicates there are that nobody has freed."""


def communicator():
    """All ranks, with every duplicate counted; None in one process."""
    if read_launcher() is None:
        return None
    from mpi4py import MPI

    class Counted(MPI.Intracomm):
        def Dup(self, info=None):
            COMMUNICATORS[0] += 1
            return Counted(super().Dup())

        def Split_type(self, *given, **named):
            COMMUNICATORS[0] += 1
            return Counted(super().Split_type(*given, **named))

        def Free(self):
            COMMUNICATORS[0] -= 1
            super().Free()

    return Counted(MPI.COMM_WORLD)


def tell(comm, done: int, folder: Path) -> None:
    """Print what was measured."""
    found = measure(folder)
    if comm is not None:
        every = comm.allgather(found)
        found = {name: max(one[name] for one in every) for name in found}
    if comm is None or comm.rank == 0:
        print(json.dumps({"done": done, **found}), flush=True)


def runs(count: int, folder: Path, comm) -> None:
    """Make runs with the methods in turn; the files of each second one take the place of others."""
    for number in range(count):
        outputs = [pd.Files(folder, force=True)] if number // len(METHODS) % 2 else []
        method = METHODS[number % len(METHODS)]()
        given = {"steps": STEPS, "samples": SAMPLES, "seed": number % 7, "comm": comm}
        pd.sample(Network(), method, outputs=outputs, **given)
        outputs.clear()
        if (number + 1) % (count // TENTHS) == 0:
            tell(comm, number + 1, folder)


class Tells(pd.Output):
    """Measures while a run goes on; on rank 0, of rank 0."""

    def __init__(self, count: int, folder: Path) -> None:
        self._each, self._folder = count // TENTHS, folder

    def answer(self, k, answer, change):
        if k and k % self._each == 0:
            tell(None, k, self._folder)


def long(method, steps: int, count: int, folder: Path, comm) -> None:
    """Make one run of many iterations, whose answers nobody keeps."""
    outputs = [pd.Files(folder, keep="final"), Tells(count, folder)]
    given = {"steps": steps, "samples": SAMPLES, "comm": comm, "batching": "off"}
    for _ in pd.iterate(Network(), method, outputs=outputs, **given):
        pass


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    comm = communicator()
    if what == "runs":
        runs(count, folder, comm)
    elif what == "rounds":
        long(pd.Window(window=1, tolerance=0), count, count, folder, comm)
    else:
        slices = pd.Parareal(slices=count, tolerance=0)
        long(slices, 2 * count, count, folder, comm)
