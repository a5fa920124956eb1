"""The MPI transport: point-to-point messages that leave while the rank computes.

A non-blocking send alone is not enough: between hosts a big message moves only while its sender is
inside MPI. So one thread of each rank owns MPI for the length of a run: it starts the sends, looks
for messages (matched probe), tests what is under way, and sleeps in between. The compute thread
talks to it through two queues and never calls MPI itself.
"""

from __future__ import annotations

import math
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
from pint_diffusion.runtime.limits import OnLost
from pint_diffusion.runtime.requests import Clock, Key
from pint_diffusion.runtime.transports.base import Control, Message, text_of
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
"""Seconds that the last messages may take once every rank has come to `MpiTransport.close`."""

LAST_MESSAGE = 1.0
"""Seconds in which a rank tells the others why the run can't go on."""


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
        Tells when a rank does not go on.
    on_lost : callable, optional
        Is told of it by the communication thread, before `receive` raises.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        events: EventLog,
        device: torch.device,
        watchdog: Watchdog | None = None,
        on_lost: OnLost | None = None,
    ) -> None:
        self._comm = comm.Dup()
        self._comm.Set_name("pint_diffusion run")
        self._events = events
        self._device = device
        self._side = SideStream(device)
        self._watchdog = watchdog
        self._on_lost = on_lost
        self._lost: tuple[str, int] | None = None  # as another rank has told
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
            If messages can no longer be moved, or if a rank does not go on.
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

        The other ranks are waited for as long as they are alive: one of them may be in a long call.

        Raises
        ------
        TransportError
            As `receive`, or if the last messages take longer than `DRAIN_TIMEOUT`.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join()
        if self._error is not None:
            self._fail()
        self._comm.Free()

    def _fail(self) -> NoReturn:
        error = self._error
        if isinstance(error, TransportError):
            raise TransportError(str(error), error.told_by) from error
        raise TransportError("the communication thread failed") from error

    # ---- the communication thread ------------------------------------------------------------

    def _communicate(self) -> None:
        try:
            bind_thread(self._device)
            self._poll_until(self._closing.is_set)
            # Signs of life go on until all ranks close.
            self._poll_until(self._comm.Ibarrier().Test)
            self._beating = False
            late = time.monotonic() + DRAIN_TIMEOUT
            announced = np.empty_like(self._sent)
            sent = self._sent + self._beats
            self._poll_until(self._comm.Ialltoall(sent, announced).Test, late)
            drained = lambda: self._is_quiet() and (self._received == announced).all()  # noqa: E731
            self._poll_until(drained, late)
        except BaseException as error:
            self._error = error
            self._inbox.put(None)

    def _poll_until(self, done: Callable[[], bool], late: float = math.inf) -> None:
        pause = SHORTEST_PAUSE
        while not done():
            if self._lost is not None:
                self._give_up(*self._lost)
            if time.monotonic() > late:
                raise TransportError(f"messages were still under way after {DRAIN_TIMEOUT:g} s")
            if self._watchdog is not None and self._watchdog.is_time():
                self._watch(self._watchdog)
            if self._progress():
                pause = SHORTEST_PAUSE
            else:
                self._wake.wait(pause)
                self._wake.clear()
                pause = min(2 * pause, MOVING_PAUSE if self._moving else LONGEST_PAUSE)

    def _watch(self, watchdog: Watchdog) -> None:
        """Look for a rank that does not go on, and tell the others that this one is alive."""
        if (lost := watchdog.look()) is not None:
            cause, told_by = lost
            others = [peer for peer in range(self._comm.size) if peer != self._comm.rank]
            self._say(others, Key(Control.LOST, told_by, 0), cause.encode())
            soon = time.monotonic() + LAST_MESSAGE
            while self._moving and time.monotonic() < soon:
                self._finish_some()
                time.sleep(SHORTEST_PAUSE)
            self._give_up(cause, told_by)
        if self._beating:
            self._say(watchdog.peers, Key(Control.ALIVE, 0, 0), watchdog.sign())

    def _give_up(self, cause: str, told_by: int) -> NoReturn:
        if self._on_lost is not None:
            self._on_lost(cause, told_by)
        raise TransportError(cause, told_by)

    def _say(self, peers: Sequence[int], key: Key, text: bytes) -> None:
        """Start a message of this thread's own to other ranks."""
        message = torch.frombuffer(bytearray(HEADER.pack(*key, 0, 0) + text), dtype=torch.uint8)
        for peer in peers:
            self._beats[peer] += 1
            self._start_send(peer, key, message, self._events.now())

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
                self._watchdog.heard(move.peer, key, data)
            if key.cells == Control.LOST:
                self._lost = text_of(data).decode(), n
            elif key.cells != Control.ALIVE:
                self._inbox.put(Message(key, Clock(deep, calls), data))
        if key.cells >= 0:
            self._events.add(Event(key.n, key.k, kind, move.start, self._events.now()))


def poll_barrier(comm: MPI.Comm, pause: float = 2e-3) -> None:
    """Wait for every rank without burning a core."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(pause)
