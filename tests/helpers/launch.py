"""Start the command line in processes of its own, on any number of ranks, bounded in time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LAUNCHER_VARIABLES = ("PMI_", "PMIX_", "OMPI_", "MPI_", "HYDRA_", "SLURM_")


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: int
    out: str
    err: str
    seconds: float


def launch(*arguments, timeout=100, **given) -> Ended:
    """Run ``pint-diffusion ARGUMENTS`` to its end, see `start`.

    The job has a session of its own, which is ended as a whole when the time is up.
    """
    begun = time.monotonic()
    with start(*arguments, **given) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            what = f"{process.args} was not done in {timeout} s"
            raise AssertionError(f"{what}:\n{out}{err}") from None
    return Ended(process.returncode, out, err, time.monotonic() - begun)


def start(*arguments, ranks=1, cwd=None, environment=None, program=None) -> subprocess.Popen:
    """Start ``pint-diffusion ARGUMENTS``, under mpiexec if ``ranks`` > 1."""
    program = program or ["-m", "pint_diffusion"]
    command = [sys.executable, *program, *map(str, arguments)]
    if ranks > 1:
        command = [mpiexec(), "-n", str(ranks), *command]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=clean | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ranks_of(folder: Path) -> list[int]:
    """Process ids of the ranks that run in a folder, found by their command lines."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if words[0] == sys.executable.encode() and str(folder).encode() in words:
                found.append(int(entry.parent.name))
    return sorted(found)


def mpiexec() -> str:
    """The launcher beside this interpreter (the wheel's), or the one on the PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert found, "no mpiexec: pip install 'pint-diffusion[mpich]'"
    return found
