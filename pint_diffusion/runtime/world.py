"""Who runs: the processes of a run, their hosts and devices, and what the launcher said of them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pint_diffusion.errors import InputError, PintError

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")

_LAUNCHERS = (
    # name, size, rank, and a variable without which the first two do not speak of this process
    ("PMI (MPICH, Intel MPI, srun --mpi=pmi2)", "PMI_SIZE", "PMI_RANK", "PMI_RANK"),
    ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK"),
    ("MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_ID"),
)


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
    """Tell who started this process, or None if nobody did; no MPI library is needed."""
    for name, size, rank, proof in _LAUNCHERS:
        if proof in environment and environment.get(size, "").isdigit():
            return Launcher(name, int(environment[size]), int(environment.get(rank, "0")))
    return None


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes
    ----------
    rank, size : int
        This process and how many there are.
    local_rank, local_size : int
        The same among the processes on this host.
    comm : MPI.Comm or None
        Their communicator; None in a run of one process without MPI.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    comm: MPI.Comm | None = None

    @property
    def host(self) -> str:
        """Name of this host."""
        return socket.gethostname()

    def agree(self, check: Callable[[], T]) -> T:
        """Run a check on every rank; if it fails on one, all raise that rank's error.

        So bad input ends the job on every rank alike, whoever noticed it. Rank 0's bad input is
        that of all; any other error names the rank that has it. Ranks that are done early sleep.
        """
        error: PintError | None = None
        result: Any = None
        try:
            result = check()
        except PintError as caught:
            error = caught
        self.barrier()
        for rank, (host, first) in enumerate(self.gather((self.host, error))):
            if first is not None:
                everywhere = rank == 0 and isinstance(first, InputError)
                raise type(first)(str(first) if everywhere else f"rank {rank} on {host}: {first}")
        return result

    def gather(self, value: T) -> list[T]:
        """Collect one small object per rank, on every rank."""
        return [value] if self.comm is None else self.comm.allgather(value)

    def share(self, value: T) -> T:
        """Rank 0's object, on every rank."""
        return value if self.comm is None else self.comm.bcast(value)

    def host_cores(self) -> int:
        """Cores that the ranks of this host may use together."""
        masks = self.gather((self.host, os.sched_getaffinity(0)))
        return len(set().union(*(mask for host, mask in masks if host == self.host)))

    def barrier(self) -> None:
        """Wait for every rank, sleeping."""
        if self.comm is not None:
            from pint_diffusion.runtime.transports.mpi import poll_barrier

            poll_barrier(self.comm)

    def abort(self, code: int) -> None:
        """End every rank now; the last resort when the ranks can't agree any more."""
        sys.stderr.flush()
        sys.stdout.flush()
        if self.comm is not None and self.size > 1:
            self.comm.Abort(code)
        os._exit(code)


def open_world(transport: Literal["auto", "local", "mpi"]) -> World:
    """Find the processes of this run.

    ``auto`` is ``mpi`` if a launcher started this process and ``local`` otherwise; ``local`` needs
    no MPI library.

    Raises
    ------
    InputError
        If the number of MPI ranks differs from the launcher's own count, if ``local`` was asked
        for in a job of several processes, or if the MPI library can't be used.
    """
    launcher = read_launcher()
    if transport == "auto":
        transport = "mpi" if launcher is not None else "local"
    if transport == "local":
        if launcher is not None and launcher.size > 1:
            raise InputError(
                f"--transport local means one process, but {launcher.name} started "
                f"{launcher.size}: start one process, or use --transport mpi"
            )
        return World()
    try:
        from mpi4py import MPI
    except Exception as error:
        raise InputError(
            f"mpi4py found no MPI library ({error}): load your cluster's MPI, or "
            "pip install 'pint-diffusion[mpich]', or use --transport local in one process"
        ) from None
    comm = MPI.COMM_WORLD
    if launcher is not None and launcher.size != comm.size:
        raise InputError(
            f"{launcher.name} started {launcher.size} processes but MPI sees {comm.size}: "
            "mpi4py's MPI library and the launcher do not belong together; run "
            "'pint-diffusion check' and use the launcher of that library (with Slurm: "
            "srun --mpi=pmi2 or --mpi=pmix)"
        )
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise InputError(
            "this MPI library gives no thread the right to call it beside the main one "
            "(MPI_THREAD_SERIALIZED is needed): use a build with thread support"
        )
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    local_rank, local_size = node.rank, node.size
    node.Free()
    return World(comm.rank, comm.size, local_rank, local_size, comm)


def world_of(comm: MPI.Comm | Literal["auto"] | None) -> World:
    """Find the processes that a communicator joins."""
    if comm is None:
        return World()
    if isinstance(comm, str):
        return open_world("auto")
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    local_rank, local_size = node.rank, node.size
    node.Free()
    return World(comm.rank, comm.size, local_rank, local_size, comm)
