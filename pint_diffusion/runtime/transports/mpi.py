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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from pint_diffusion.errors import TransportError
from pint_diffusion.runtime.copies import SideStream, bind_thread
from pint_diffusion.runtime.events import Event, EventLog
from pint_diffusion.runtime.requests import Clock, Key
from pint_diffusion.runtime.transports.base import Control, Message
from pint_diffusion.runtime.transports.watchdog import Watchdog

HEADER = struct.Struct("=5i12x")
"""cells, n, k, deep, calls; padded so that the values behind it stay aligned."""

TAG = 0
"""Of every message. MPI guarantees no tag above 32,767, and the header says all there is to say."""

SHORTEST_PAUSE = 5e-5
LONGEST_PAUSE = 1e-3
MOVING_PAUSE = 2e-4
"""Most seconds between two looks at a message under way: some libraries move it at each look."""

DRAIN_TIMEOUT = 600.0
"""Seconds that `MpiTransport.close` waits for the other ranks, whose last call may be long."""


class _Outgoing(NamedTuple):
    """A packed message that waits for its copy from the device."""

    ranks: Sequence[int]
    key: Key
    buffer: Tensor
    copied: torch.cuda.Event | None
    start: float


@dataclass(slots=True)
class _Moving:
    """A message under way; ``key`` is None for one that arrives."""

    request: MPI.Request
    peer: int
    key: Key | None
    buffer: Tensor
    start: float
    complete: bool = False


class MpiTransport:
    """Moves messages between the ranks of a communicator.

    Parameters
    ----------
    comm : MPI.Comm
        Communicator of the run; it is duplicated, so that nothing else can match its messages.
    events : EventLog
        Is told when each message left and arrived; its clock starts here, on all ranks at once.
    device : torch.device
        Where states live. Those of a CUDA device go through pinned host memory.
    watchdog : Watchdog, optional
        Tells when another rank has fallen silent.
    on_silence : callable, optional
        Is told of it by the communication thread, before `receive` raises.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        events: EventLog,
        device: torch.device,
        watchdog: Watchdog | None = None,
        on_silence: Callable[[str], None] | None = None,
    ) -> None:
        self._comm = comm.Dup()
        self._comm.Set_name("pint_diffusion run")
        self._events = events
        self._device = device
        self._side = SideStream(device)
        self._watchdog = watchdog
        self._on_silence = on_silence
        self._outbox: SimpleQueue[_Outgoing] = SimpleQueue()
        self._inbox: SimpleQueue[Message | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._staged: deque[_Outgoing] = deque()
        self._moving: list[_Moving] = []
        self._sent = np.zeros(comm.size, dtype=np.int64)
        self._received = np.zeros(comm.size, dtype=np.int64)
        self._beats = np.zeros(comm.size, dtype=np.int64)  # sent by the communication thread
        self._beating = watchdog is not None
        self._wake = threading.Event()
        self._closing = threading.Event()
        # Else the first big message between two hosts would wait for their connection.
        self._comm.Alltoall(self._sent, self._received)
        events.restart_clock()
        self._thread = threading.Thread(target=self._communicate, name="mpi", daemon=True)
        self._thread.start()

    # ---- called by the compute thread --------------------------------------------------------

    def send(self, ranks: Sequence[int], message: Message) -> None:
        """Pack a message once for all ranks that get it; data on the host may then change."""
        if not ranks:
            return
        key, clock, data = message.key, message.clock, message.data
        size = HEADER.size + (0 if data is None else data.numel() * data.element_size())
        # Nothing of a header touches CUDA, so a rank whose device has failed can still say so.
        buffer = torch.empty(size, dtype=torch.uint8, pin_memory=data is not None and data.is_cuda)
        HEADER.pack_into(buffer.numpy().data, 0, *key, *clock)
        copied = None
        if data is not None:
            payload = buffer[HEADER.size :].view(data.dtype).view(data.shape)
            copied = self._side.copy(data, payload)
        for rank in ranks:
            self._sent[rank] += 1
        self._events.sent_bytes += size * len(ranks)
        self._outbox.put(_Outgoing(ranks, key, buffer, copied, self._events.now()))
        self._wake.set()

    def receive(self, timeout: float | None) -> list[Message]:
        """Return what has arrived, sleeping up to ``timeout`` seconds for the first message.

        Raises
        ------
        TransportError
            If messages can no longer be moved, or if another rank has fallen silent.
        """
        messages: list[Message] = []
        try:
            while True:
                block = not messages and timeout != 0
                item = self._inbox.get(block, timeout) if block else self._inbox.get_nowait()
                if item is None:
                    self._fail()
                messages.append(item)
        except Empty:
            return messages

    def close(self) -> None:
        """Take part in draining: every message sent to this rank is received, then MPI is free.

        Raises
        ------
        TransportError
            As `receive`, or if the other ranks do not take part within `DRAIN_TIMEOUT`.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(DRAIN_TIMEOUT)
        if self._error is not None:
            self._fail()
        if self._thread.is_alive():
            raise TransportError(f"messages were still under way after {DRAIN_TIMEOUT:g} s")
        self._comm.Free()

    def _fail(self) -> NoReturn:
        silence = isinstance(self._error, TransportError)
        told = str(self._error) if silence else "the communication thread failed"
        raise TransportError(told) from self._error

    # ---- the communication thread ------------------------------------------------------------

    def _communicate(self) -> None:
        try:
            bind_thread(self._device)
            self._poll_until(self._closing.is_set)
            # Signs of life go on until all ranks close: one of them may be in a long call.
            self._poll_until(self._comm.Ibarrier().Test)
            self._beating = False
            announced = np.empty_like(self._sent)
            sent = self._sent + self._beats
            self._poll_until(self._comm.Ialltoall(sent, announced).Test)
            self._poll_until(lambda: self._is_quiet() and (self._received == announced).all())
        except BaseException as error:
            self._error = error
            self._inbox.put(None)

    def _poll_until(self, done: Callable[[], bool]) -> None:
        pause = SHORTEST_PAUSE
        while not done():
            if self._watchdog is not None and self._watchdog.is_time():
                self._watch(self._watchdog)
            if self._progress():
                pause = SHORTEST_PAUSE
            else:
                self._wake.wait(pause)
                self._wake.clear()
                pause = min(2 * pause, MOVING_PAUSE if self._moving else LONGEST_PAUSE)

    def _watch(self, watchdog: Watchdog) -> None:
        """Look for a rank that has fallen silent, and tell the others that this one has not."""
        if (cause := watchdog.silent()) is not None:
            if self._on_silence is not None:
                self._on_silence(cause)
            raise TransportError(cause)
        if self._beating:
            for peer in watchdog.peers:
                buffer = torch.empty(HEADER.size, dtype=torch.uint8)
                key = Key(Control.ALIVE, *watchdog.longest_call())
                HEADER.pack_into(buffer.numpy().data, 0, *key, 0, 0)
                self._beats[peer] += 1
                self._start_send(peer, key, buffer, self._events.now())

    def _is_quiet(self) -> bool:
        return self._outbox.empty() and not self._staged and not self._moving

    def _start_send(self, to: int, key: Key, buffer: Tensor, start: float) -> None:
        request = self._comm.Isend(buffer.numpy(), to, TAG)
        self._moving.append(_Moving(request, to, key, buffer, start))

    def _progress(self) -> bool:
        """Start, look for and finish messages; tell whether anything happened.

        Messages of one rank start in the order in which they were made, are matched in that order
        and are handed over in it, though a short one may be complete before a long one.
        """
        happened = False
        while not self._outbox.empty():
            self._staged.append(self._outbox.get_nowait())
        while self._staged and (self._staged[0].copied is None or self._staged[0].copied.query()):
            out = self._staged.popleft()
            for rank in out.ranks:
                self._start_send(rank, out.key, out.buffer, out.start)
            happened = True
        status = MPI.Status()
        while (found := self._comm.Improbe(MPI.ANY_SOURCE, TAG, status)) is not None:
            size = status.Get_count(MPI.BYTE)
            pinned = self._device.type == "cuda" and size > HEADER.size
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
            request = found.Irecv(buffer.numpy())
            self._moving.append(_Moving(request, status.source, None, buffer, self._events.now()))
            happened = True
        return self._finish_some() or happened

    def _finish_some(self) -> bool:
        """Finish the messages that are complete; tell whether there was one."""
        if not self._moving:
            return False
        complete = MPI.Request.Testsome([move.request for move in self._moving])
        if not complete:
            return False
        for index in complete:
            self._moving[index].complete = True
        still: list[_Moving] = []
        behind: set[int] = set()  # ranks with a message under way: what they sent later waits
        for move in self._moving:
            arrives = move.key is None
            if not move.complete or (arrives and move.peer in behind):
                still.append(move)
                if arrives:
                    behind.add(move.peer)
            else:
                self._finish(move)
        self._moving = still
        return True

    def _finish(self, move: _Moving) -> None:
        key, kind = move.key, "send"
        if key is None:
            kind = "recv"
            self._received[move.peer] += 1
            cells, n, k, deep, calls = HEADER.unpack_from(move.buffer.numpy().data)
            key = Key(cells, n, k)
            data = move.buffer[HEADER.size :] if len(move.buffer) > HEADER.size else None
            if self._watchdog is not None:
                self._watchdog.heard(move.peer, key)
            if key.cells != Control.ALIVE:
                self._inbox.put(Message(key, Clock(deep, calls), data))
        if key.cells >= 0:
            self._events.add(Event(key.n, key.k, kind, move.start, self._events.now()))


def poll_barrier(comm: MPI.Comm, pause: float = 2e-3) -> None:
    """Wait for every rank without burning a core."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(pause)
