"""The ranks of an MPI communicator; the one module that makes a `World` of MPI."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeVar

from pint_diffusion.errors import InputError
from pint_diffusion.runtime.launcher import read_launcher
from pint_diffusion.runtime.world import OnSilence, World, flush

try:
    from mpi4py import MPI
except Exception as error:
    raise InputError(
        f"mpi4py found no MPI library ({error}): load your cluster's MPI, or "
        "pip install 'pint-diffusion[mpich]', or use `transport` local in one process"
    ) from None

if TYPE_CHECKING:
    import torch

    from pint_diffusion.runtime.events import EventLog
    from pint_diffusion.runtime.talk import Talk
    from pint_diffusion.runtime.transports.base import Transport
    from pint_diffusion.runtime.transports.mpi import MpiTransport

T = TypeVar("T")


@dataclass(frozen=True)
class MpiWorld(World):
    """The ranks of a communicator, which may be a part of the program's.

    The communicator stays the caller's: its collective operations are used between runs, and a
    run has a duplicate of its own.

    Attributes
    ----------
    comm : MPI.Comm
        The communicator.
    """

    comm: MPI.Comm = field(kw_only=True)

    @classmethod
    def open(cls) -> MpiWorld:
        """Find all ranks; the launcher must have started as many as MPI sees."""
        launcher = read_launcher()
        if launcher is not None and launcher.size != MPI.COMM_WORLD.size:
            raise InputError(
                f"{launcher.name} started {launcher.size} processes but MPI sees "
                f"{MPI.COMM_WORLD.size}: mpi4py's MPI library and the launcher do not belong "
                "together; run 'pint-diffusion check' and use the launcher of that library (with "
                "Slurm: srun --mpi=pmi2 or --mpi=pmix)"
            )
        return cls.of(MPI.COMM_WORLD)

    @classmethod
    def of(cls, comm: MPI.Comm) -> MpiWorld:
        """Look at a communicator; every rank of it calls this.

        Raises
        ------
        InputError
            If it joins no processes, or if its MPI library may not be called from a thread.
        """
        if not isinstance(comm, MPI.Intracomm):
            raise InputError(
                f"`comm` is {type(comm).__name__}, which joins no ranks of one group: give an "
                "intracommunicator of mpi4py, such as MPI.COMM_WORLD, 'auto' or None"
            )
        if comm == MPI.COMM_NULL:
            raise InputError("`comm` is MPI.COMM_NULL: this rank takes part in no run")
        if not MPI.Is_initialized() or MPI.Is_finalized():
            raise InputError("MPI is not initialised: call MPI.Init_thread() before the run")
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise InputError(
                "this MPI library gives no thread the right to call it beside the main one "
                "(MPI_THREAD_SERIALIZED is needed): use a build with thread support"
            )
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        local_rank, local_size = node.rank, node.size
        node.Free()
        return cls(comm.rank, comm.size, local_rank, local_size, comm=comm)

    @property
    def library(self) -> str:
        """First line of the MPI library's version."""
        return " ".join(MPI.Get_library_version().splitlines()[0].strip("\x00 ").split())

    def gather(self, value: T) -> list[T]:
        """Collect one small object per rank, on every rank."""
        return self.comm.allgather(value)

    def share(self, value: T) -> T:
        """Rank 0's object, on every rank."""
        return self.comm.bcast(value)

    def barrier(self) -> None:
        """Wait for every rank, sleeping."""
        from pint_diffusion.runtime.transports.mpi import poll_barrier

        poll_barrier(self.comm)

    def transport(
        self,
        events: EventLog,
        device: torch.device,
        patience: float | None,
        on_silence: OnSilence | None = None,
    ) -> Transport:
        """Make a transport on a duplicate of the communicator, and its watchdog."""
        from pint_diffusion.runtime.transports.watchdog import Watchdog

        hosts = self.gather(self.host)
        watchdog = None if patience is None else Watchdog(self.rank, hosts, patience, events)
        return self.transport_kind()(self.comm, events, device, watchdog, on_silence)

    def transport_kind(self) -> type[MpiTransport]:
        """Return the class of its transports."""
        from pint_diffusion.runtime.transports.mpi import MpiTransport

        return MpiTransport

    def talk(self) -> Talk:
        """Make what the checks talk through, on duplicates of the communicator."""
        from pint_diffusion.runtime.talk import Talk

        return Talk(self.comm)

    def abort(self, code: int) -> NoReturn:
        """End every rank of the program, also those outside this communicator."""
        flush()
        if self.size > 1:
            self.comm.Abort(code)
        os._exit(code)
