"""What a launcher says of this process in its environment; no MPI library is needed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pint_diffusion.errors import InputError

_LAUNCHERS = (
    # name, size, rank, and a variable without which the first two do not speak of this process
    ("PMI (MPICH, Intel MPI, srun --mpi=pmi2)", "PMI_SIZE", "PMI_RANK", "PMI_RANK"),
    ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK"),
    ("MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_ID"),
)
_RANKS = ("PMIX_RANK", "MPI_LOCALRANKID", *(rank for _, _, rank, _ in _LAUNCHERS))


@dataclass(frozen=True)
class Launcher:
    """What a launcher's environment says of this process.

    Attributes
    ----------
    name : str
        Which launcher.
    size, rank : int
        How many processes it started, and which of them this one is.
    """

    name: str
    size: int
    rank: int


def read_launcher(environment: Mapping[str, str] = os.environ) -> Launcher | None:
    """Tell who started this process, or None if nobody did.

    Raises
    ------
    InputError
        If a variable holds no number, or if there is no such rank.
    """
    told = {
        name: _count(name, environment[name])
        for _, *names, _ in _LAUNCHERS
        for name in names
        if name in environment
    }
    for launcher, size, rank, proof in _LAUNCHERS:
        if proof in environment and size in told:
            found = Launcher(launcher, told[size], told.get(rank, 0))
            if found.rank >= found.size:
                raise InputError(
                    f"the environment variable {rank} is {found.rank} and {size} is {found.size}: "
                    "there is no such rank, so unset both, or start the program with the launcher "
                    "that sets them"
                )
            return found
    return None


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this process speaks for all: it is rank 0, or nothing calls it another rank."""
    with contextlib.suppress(InputError):
        launcher = read_launcher(environment)
        return launcher is None or launcher.rank == 0
    told = (environment.get(name, "") for name in _RANKS)
    return not any(re.fullmatch("0*[1-9][0-9]*", value) for value in told)


def refuse_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse variables that hold no numbers, before a library reads them.

    Raises
    ------
    InputError
        If one does.
    """
    read_launcher(environment)
    threads = environment.get("OMP_NUM_THREADS", "").strip()
    for one in threads.split(",") if threads else ():
        if not re.fullmatch("[0-9]{1,9}", one.strip()) or not int(one):
            raise InputError(
                f"the environment variable OMP_NUM_THREADS is {threads!r}, which is no number of "
                "threads: unset it, or give a number"
            )


def _count(name: str, value: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", value):
        raise InputError(
            f"the environment variable {name} is {value!r}, which is no number of ranks: unset it, "
            "or start the program with the launcher that sets it"
        )
    return int(value)
