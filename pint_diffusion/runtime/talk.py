"""Messages that give up after a time, for the checks: none of them waits for ever."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds that a rank may take for its part of one check; a pair of ranks has a third of it."""

SPIN = 1e-3
"""Seconds of a wait without sleep, for latency."""

GATHER, SPREAD = 1, 2


class Silence(Exception):
    """Ranks did not answer in time."""

    def __init__(self, ranks: Sequence[int]) -> None:
        super().__init__(f"no answer from {', '.join(map(str, ranks))}")
        self.ranks = ranks


class Talk:
    """What the checks say to each other.

    Parameters
    ----------
    comm : MPI.Comm or None
        The ranks; None for one process. It is duplicated, for pairs and for all, so that what was
        given up between a pair takes nothing from the rest.

    Attributes
    ----------
    rank, size : int
        This rank and how many there are.
    cut_off : bool
        Whether a wait of this rank was given up: a message may still be under way, and MPI can't
        be finalised.
    lost : set of int
        Ranks with which another one lost its connection; the same on every rank.
    """

    def __init__(self, comm: MPI.Comm | None) -> None:
        self.rank, self.size = (0, 1) if comm is None else (comm.rank, comm.size)
        self.cut_off = False
        self.lost: set[int] = set()
        self._pairs = comm.Dup() if comm is not None else None
        self._all = comm.Dup() if comm is not None else None
        self._kept: list[Any] = []  # buffers of messages that were given up

    @property
    def thread_level(self) -> str:
        """How far threads may call the MPI library; ``none`` without MPI."""
        if self._all is None:
            return "none"
        from mpi4py import MPI

        levels = ("SINGLE", "FUNNELED", "SERIALIZED", "MULTIPLE")
        named = {getattr(MPI, f"THREAD_{level}"): level.lower() for level in levels}
        return named[MPI.Query_thread()]

    @property
    def memory_kinds(self) -> str:
        """Kinds of memory that messages may lie in, by what the MPI library says of itself."""
        if self._all is None:
            return ""
        from mpi4py import MPI

        name = "mpi_memory_alloc_kinds"
        return self._all.Get_info().Get(name) or MPI.INFO_ENV.Get(name) or ""

    def start_send(self, buffer: Any, to: int, tag: int = 0) -> MPI.Request:
        """Begin to send a buffer to a rank; `wait` for it."""
        return self._pair().Isend(buffer, to, tag)

    def start_receive(self, buffer: Any, source: int) -> MPI.Request:
        """Begin to receive a message with any tag into a buffer; `wait` for it."""
        from mpi4py import MPI

        return self._pair().Irecv(buffer, source, MPI.ANY_TAG)

    def _pair(self) -> MPI.Comm:
        assert self._pairs is not None, "one process has nobody to talk to"
        return self._pairs

    def wait(self, request: MPI.Request, buffer: Any = None, status: Any = None) -> None:
        """Wait for a message of a pair, without sleep at first.

        Raises
        ------
        Silence
            If it takes more than a third of `PATIENCE`.
        """
        start = time.perf_counter()
        while not request.Test(status):
            waited = time.perf_counter() - start
            if waited > PATIENCE / 3:
                self.cut_off = True
                self._kept.append((request, buffer))
                raise Silence([])
            if waited > SPIN:
                time.sleep(1e-4)

    def send(self, buffer: NDArray[Any], to: int, tag: int = 0) -> None:
        """Send a buffer."""
        self.wait(self.start_send(buffer, to, tag), buffer)

    def receive(self, buffer: NDArray[Any], source: int) -> int:
        """Receive into a buffer and return the tag."""
        from mpi4py import MPI

        status = MPI.Status()
        self.wait(self.start_receive(buffer, source), buffer, status)
        return status.tag

    def gather(self, value: T, patience: float | None = None) -> list[T]:
        """Collect one small object per rank, on every rank, through rank 0.

        Parameters
        ----------
        value : object
            This rank's.
        patience : float, optional
            Seconds instead of `PATIENCE`.

        Raises
        ------
        Silence
            On rank 0 with the ranks that did not answer in time; on another one if rank 0 did not.
        """
        if self._all is None or self.size == 1:
            return [value]
        patience = patience or PATIENCE
        if self.rank:
            sent = self._all.isend(value, 0, GATHER)
            self._kept.append(sent)
            # Rank 0 may use up its patience with another rank first.
            return self._take(0, SPREAD, time.monotonic() + 2 * patience)
        deadline = time.monotonic() + patience
        values: list[Any] = [value] + [None] * (self.size - 1)
        silent = []
        for rank in range(1, self.size):
            try:
                values[rank] = self._take(rank, GATHER, deadline)
            except Silence:
                silent.append(rank)
        if silent:
            raise Silence(silent)
        self._kept += [self._all.isend(values, rank, SPREAD) for rank in range(1, self.size)]
        return values

    def _take(self, source: int, tag: int, deadline: float) -> Any:
        assert self._all is not None
        pause = 1e-4
        while (message := self._all.improbe(source, tag)) is None:
            if time.monotonic() > deadline:
                self.cut_off = True
                raise Silence([source])
            time.sleep(pause)
            pause = min(2 * pause, 2e-3)
        return message.recv()


def one_per_host(hosts: Sequence[str]) -> dict[str, int]:
    """The first rank of every host."""
    return {host: hosts.index(host) for host in dict.fromkeys(hosts)}


def pattern(size: int) -> NDArray[Any]:
    """Bytes that a message is compared with."""
    return np.arange(size, dtype=np.uint32).astype(np.uint8)
