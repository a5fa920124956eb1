"""Who runs: the processes of a run, their hosts and devices."""

from __future__ import annotations

import os
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, TypeVar

from pint_diffusion.errors import InputError, PintError
from pint_diffusion.runtime.launcher import read_launcher

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI

    from pint_diffusion.runtime.events import EventLog
    from pint_diffusion.runtime.talk import Talk
    from pint_diffusion.runtime.transports.base import Transport

T = TypeVar("T")

Communicator: TypeAlias = "MPI.Comm | Literal['auto'] | None"
"""What a caller may name the processes of a run by, see `world_of`."""

OnSilence = Callable[[str], None]
"""Is told which rank has fallen silent, in a sentence."""


@dataclass(frozen=True)
class World(ABC):
    """The processes of a run, as one of them sees it.

    `LocalWorld` is this process alone; `MpiWorld` (`runtime.mpi_world`) are the ranks of an MPI
    communicator. Every rank calls `agree`, `gather`, `share`, `barrier`, `transport` and `talk`
    in the same order.

    Attributes
    ----------
    rank, size : int
        This process and how many there are.
    local_rank, local_size : int
        The same among the processes on this host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    @abstractmethod
    def open(cls) -> World:
        """Find the processes of this program.

        Raises
        ------
        InputError
            If a launcher has started other processes than are found.
        """

    @property
    def host(self) -> str:
        """Name of this host."""
        return socket.gethostname()

    @property
    @abstractmethod
    def library(self) -> str:
        """First line of the MPI library's version; ``none`` without MPI."""

    @abstractmethod
    def gather(self, value: T) -> list[T]:
        """Collect one small object per rank, on every rank."""

    @abstractmethod
    def share(self, value: T) -> T:
        """Rank 0's object, on every rank."""

    @abstractmethod
    def barrier(self) -> None:
        """Wait for every rank, sleeping."""

    @abstractmethod
    def transport(
        self,
        events: EventLog,
        device: torch.device,
        patience: float | None,
        on_silence: OnSilence | None = None,
    ) -> Transport:
        """Make what moves the messages of one run; its time begins here, on all ranks at once.

        Parameters
        ----------
        events : EventLog
            Is told when each message left and arrived.
        device : torch.device
            Where this rank's states live.
        patience : float or None
            Seconds of silence after which another rank is taken for lost; None: never.
        on_silence : callable, optional
            Is told who fell silent, before this rank's `Runtime` raises TransportError. A thread of
            the transport calls it, so it is called during a network call too, and may end the job.
        """

    @abstractmethod
    def talk(self) -> Talk:
        """Make what the checks talk through: messages that give up after a time."""

    @abstractmethod
    def abort(self, code: int) -> NoReturn:
        """End every rank now; for the command, when the ranks can't agree any more."""

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
                told = str(first) if everywhere else f"rank {rank} on {host}: {first}"
                raise type(first)(told) from error
        return result

    def host_cores(self) -> int:
        """Cores that the ranks of this host may use together."""
        masks = self.gather((self.host, os.sched_getaffinity(0)))
        return len(set().union(*(mask for host, mask in masks if host == self.host)))


class LocalWorld(World):
    """The world of one process: nothing is sent, and no MPI library is needed."""

    @classmethod
    def open(cls) -> World:
        """Find this process; a launcher may not have started more."""
        launcher = read_launcher()
        if launcher is not None and launcher.size > 1:
            raise InputError(
                f"`transport` local means one process, but {launcher.name} started "
                f"{launcher.size}: start one process, or use `transport` mpi"
            )
        return cls()

    @property
    def library(self) -> str:
        """There is none."""
        return "none"

    def gather(self, value: T) -> list[T]:
        """Return what this process gives."""
        return [value]

    def share(self, value: T) -> T:
        """Return what this process gives."""
        return value

    def barrier(self) -> None:
        """There is nobody to wait for."""

    def transport(
        self,
        events: EventLog,
        device: torch.device,
        patience: float | None,
        on_silence: OnSilence | None = None,
    ) -> Transport:
        """Make a transport with nobody to send to."""
        from pint_diffusion.runtime.transports.local import LocalTransport

        events.restart_clock()
        return LocalTransport()

    def talk(self) -> Talk:
        """Talk to nobody."""
        from pint_diffusion.runtime.talk import Talk

        return Talk(None)

    def abort(self, code: int) -> NoReturn:
        """End this process."""
        flush()
        os._exit(code)


def flush() -> None:
    """Write out what was printed, before a process ends without doing so itself."""
    sys.stderr.flush()
    sys.stdout.flush()


WORLDS = {
    "local": "world.LocalWorld",
    "mpi": "mpi_world.MpiWorld",
}
"""Transport -> its `World`, below this folder; loaded when it is opened. A new one is a line."""


def open_world(transport: str) -> World:
    """Find the processes of this program.

    Parameters
    ----------
    transport : str
        A name in `WORLDS`, or ``auto``: ``mpi`` if a launcher started this process, else ``local``.
        ``local`` needs no MPI library.

    Raises
    ------
    InputError
        If the number of MPI ranks differs from the launcher's own count, if ``local`` was asked
        for in a job of several processes, or if the MPI library can't be used.
    """
    if transport == "auto":
        transport = "local" if read_launcher() is None else "mpi"
    module, name = WORLDS[transport].rsplit(".", 1)
    world: type[World] = getattr(import_module(f"pint_diffusion.runtime.{module}"), name)
    return world.open()


def world_of(comm: Communicator) -> World:
    """Find the processes that a communicator joins.

    Parameters
    ----------
    comm : MPI.Comm, "auto" or None
        A communicator: its ranks, each of which calls this. ``auto``: all ranks if a launcher
        started the program, else this process. None: this process alone, whoever started it.

    Raises
    ------
    InputError
        If it is none of these, or if its MPI library can't be used.
    """
    if comm is None:
        return LocalWorld()
    if isinstance(comm, str):
        if comm != "auto":
            raise InputError(f"`comm` is {comm!r}: give a communicator of mpi4py, 'auto' or None")
        return open_world("auto")
    from pint_diffusion.runtime.mpi_world import MpiWorld

    return MpiWorld.of(comm)
