"""Start the command line in processes of its own, on any number of ranks, bounded in time."""

from __future__ import annotations

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


def launch(*arguments, ranks=1, timeout=60, cwd=None, environment=None, program=None) -> Ended:
    """Run ``pint-diffusion ARGUMENTS``, under mpiexec if ``ranks`` > 1.

    The job has a session of its own, which is ended as a whole when the time is up.
    """
    program = program or ["-m", "pint_diffusion"]
    command = [sys.executable, *program, *map(str, arguments)]
    if ranks > 1:
        command = [mpiexec(), "-n", str(ranks), *command]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
    start = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=clean | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"{command} was not done in {timeout} s:\n{out}{err}") from None
    return Ended(process.returncode, out, err, time.monotonic() - start)


def mpiexec() -> str:
    """The launcher beside this interpreter (the wheel's), or the one on the PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert found, "no mpiexec: pip install 'pint-diffusion[mpich]'"
    return found
