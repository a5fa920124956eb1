"""The MPI transport: point-to-point messages that leave while the rank computes.

A non-blocking send alone is not enough: between hosts a big message moves only while its sender is
inside MPI. So one thread of each rank owns MPI for the length of a run: it starts the sends, looks
for messages (matched probe), tests what is under way, and sleeps in between. The compute thread
talks to it through two queues and never calls MPI itself.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from pint_diffusion.errors import TransportError
from pint_diffusion.runtime.events import Event, EventLog
from pint_diffusion.runtime.requests import Clock, Key
from pint_diffusion.runtime.transports.base import Control, Message
from pint_diffusion.runtime.transports.watchdog import Watchdog

HEADER = struct.Struct("=5i12x")
"""cells, n, k, deep, calls; padded so that the values behind it stay aligned."""

SHORTEST_PAUSE = 5e-5
LONGEST_PAUSE = 1e-3
DRAIN_TIMEOUT = 600.0
"""Seconds that `MpiTransport.close` waits for the other ranks, whose last call may be long."""


class _Outgoing(NamedTuple):
    """A packed message that waits for its copy from the device, then for its delivery."""

    to: int
    key: Key
    buffer: Tensor
    copied: Any
    start: float


class _Moving(NamedTuple):
    """A message under way, out or in."""

    request: MPI.Request
    kind: str
    peer: int
    key: Key | None
    buffer: Tensor
    start: float


class MpiTransport:
    """Moves messages between the ranks of a communicator; tag = iteration.

    Parameters
    ----------
    comm : MPI.Comm
        Communicator of the run; it is duplicated, so that nothing else can match its messages.
    events : EventLog
        Is told when each message left and arrived; its clock starts here, on all ranks at once.
    pinned : bool
        Stage messages in pinned host memory, for states that live on a CUDA device.
    watchdog : Watchdog
        Ends the job when another rank has fallen silent.
    """

    def __init__(self, comm: MPI.Comm, events: EventLog, pinned: bool, watchdog: Watchdog) -> None:
        self._comm = comm.Dup()
        self._comm.Set_name("pint_diffusion wavefront")
        self._events = events
        self._pinned = pinned
        self._watchdog = watchdog
        self._outbox: SimpleQueue[_Outgoing] = SimpleQueue()
        self._inbox: SimpleQueue[Message | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._staged: deque[_Outgoing] = deque()
        self._moving: list[_Moving] = []
        self._sent = np.zeros(comm.size, dtype=np.int64)
        self._received = np.zeros(comm.size, dtype=np.int64)
        self._beats = np.zeros(comm.size, dtype=np.int64)  # sent by the communication thread
        self._wake = threading.Event()
        self._closing = threading.Event()
        # Else the first big message between two hosts would wait for their connection.
        self._comm.Alltoall(self._sent, self._received)
        events.restart_clock()
        self._thread = threading.Thread(target=self._communicate, name="mpi", daemon=True)
        self._thread.start()

    # ---- called by the compute thread --------------------------------------------------------

    def send(self, to: int, message: Message) -> None:
        """Pack a message and hand it over; its data may be reused or changed at once."""
        key, clock, data = message.key, message.clock, message.data
        size = HEADER.size + (0 if data is None else data.numel() * data.element_size())
        # Nothing of a header touches CUDA, so a rank whose device has failed can still say so.
        pinned = self._pinned and data is not None and data.is_cuda
        buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        HEADER.pack_into(buffer.numpy().data, 0, *key, *clock)
        copied = None
        if data is not None:
            payload = buffer[HEADER.size :].view(data.dtype).view(data.shape)
            payload.copy_(data, non_blocking=True)
            if data.is_cuda:
                copied = torch.cuda.Event()
                copied.record()
        self._sent[to] += 1
        self._events.sent_bytes += size
        self._outbox.put(_Outgoing(to, key, buffer, copied, self._events.now()))
        self._wake.set()

    def receive(self, timeout: float | None) -> list[Message]:
        """Return what has arrived, sleeping up to ``timeout`` seconds for the first message."""
        messages: list[Message] = []
        try:
            while True:
                block = not messages and timeout != 0
                item = self._inbox.get(block, timeout) if block else self._inbox.get_nowait()
                if item is None:
                    raise TransportError("the communication thread failed") from self._error
                messages.append(item)
        except Empty:
            return messages

    def close(self) -> None:
        """Take part in draining: every message sent to this rank is received, then MPI is free.

        Raises
        ------
        TransportError
            If the other ranks do not take part within `DRAIN_TIMEOUT`.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(DRAIN_TIMEOUT)
        if self._error is not None:
            raise TransportError("the communication thread failed") from self._error
        if self._thread.is_alive():
            raise TransportError(f"messages were still under way after {DRAIN_TIMEOUT:g} s")
        self._comm.Free()

    # ---- the communication thread ------------------------------------------------------------

    def _communicate(self) -> None:
        try:
            self._poll_until(self._closing.is_set)
            announced = np.empty_like(self._sent)
            sent = self._sent + self._beats
            counts = self._comm.Ialltoall(sent, announced)
            self._poll_until(counts.Test)
            self._poll_until(lambda: self._is_quiet() and (self._received == announced).all())
        except BaseException as error:
            self._error = error
            self._inbox.put(None)

    def _poll_until(self, done: Any) -> None:
        pause = SHORTEST_PAUSE
        while not done():
            self._watchdog.look(self._comm)
            if self._progress():
                pause = SHORTEST_PAUSE
            else:
                self._wake.wait(pause)
                self._wake.clear()
                pause = min(2 * pause, LONGEST_PAUSE)

    def _is_quiet(self) -> bool:
        return self._outbox.empty() and not self._staged and not self._moving

    def _progress(self) -> bool:
        """Start, look for and finish messages; tell whether anything happened.

        Messages of one rank start in the order in which they were made, are matched in that order
        and are handed over in it, though a short one may be complete before a long one.
        """
        happened = False
        if not self._closing.is_set():
            for peer in self._watchdog.due():
                self._beat(peer)
        while not self._outbox.empty():
            self._staged.append(self._outbox.get_nowait())
        while self._staged and (self._staged[0].copied is None or self._staged[0].copied.query()):
            out = self._staged.popleft()
            request = self._comm.Isend(out.buffer.numpy(), out.to, max(out.key.k, 0))
            self._moving.append(_Moving(request, "send", out.to, out.key, out.buffer, out.start))
            happened = True
        status = MPI.Status()
        while (found := self._comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)) is not None:
            size = status.Get_count(MPI.BYTE)
            pinned = self._pinned and size > HEADER.size
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
            request = found.Irecv(buffer.numpy())
            start = self._events.now()
            self._moving.append(_Moving(request, "recv", status.source, None, buffer, start))
            happened = True
        still: list[_Moving] = []
        behind: set[int] = set()  # ranks with a message under way: what they sent later waits
        for move in self._moving:
            if not move.request.Test() or (move.kind == "recv" and move.peer in behind):
                still.append(move)
                if move.kind == "recv":
                    behind.add(move.peer)
            else:
                self._finish(move)
                happened = True
        self._moving = still
        return happened

    def _beat(self, peer: int) -> None:
        buffer = torch.empty(HEADER.size, dtype=torch.uint8)
        key = Key(Control.ALIVE, *self._watchdog.longest_call())
        HEADER.pack_into(buffer.numpy().data, 0, *key, 0, 0)
        self._beats[peer] += 1
        request = self._comm.Isend(buffer.numpy(), peer, 0)
        self._moving.append(_Moving(request, "send", peer, key, buffer, self._events.now()))

    def _finish(self, move: _Moving) -> None:
        key = move.key
        if move.kind == "recv":
            self._received[move.peer] += 1
            cells, n, k, deep, calls = HEADER.unpack_from(move.buffer.numpy().data)
            key = Key(cells, n, k)
            data = move.buffer[HEADER.size :] if len(move.buffer) > HEADER.size else None
            self._watchdog.heard(move.peer, key)
            if key.cells != Control.ALIVE:
                self._inbox.put(Message(key, Clock(deep, calls), data))
        assert key is not None
        if key.cells >= 0:
            self._events.add(Event(key.n, key.k, move.kind, move.start, self._events.now()))


def poll_barrier(comm: MPI.Comm, pause: float = 2e-3) -> None:
    """Wait for every rank without burning a core."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(pause)
