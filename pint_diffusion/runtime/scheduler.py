"""The runtime of one rank: it runs the rank's coroutines and decides when what is evaluated.

Invariants. A value is written once and handed out exactly as often as its cells say. Which
coroutine runs first never changes what is computed, only when: every decision that shapes the
answer is a function of values. Nothing here knows an algorithm, and nothing waits on a barrier.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.errors import Interrupted, PeerFailure, TransportError
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.runtime.answers import Answers
from pint_diffusion.runtime.calls import Calls, Pending, Task
from pint_diffusion.runtime.events import Event, EventLog
from pint_diffusion.runtime.failures import DroppedError, Failures
from pint_diffusion.runtime.listener import Listener
from pint_diffusion.runtime.post import Post
from pint_diffusion.runtime.requests import (
    AnswerRequest,
    Cells,
    Clock,
    EvaluateRequest,
    Key,
    Layout,
    Together,
)
from pint_diffusion.runtime.transports.base import Control, Message, Transport
from pint_diffusion.runtime.values import Records, Values

PATIENCE = 0.5
"""A call may be held back by this share of the last call's length for a value that is due."""

LONGEST_SLEEP = 0.2
"""Seconds after which a rank that waits looks whether somebody asked it to end."""


class Runtime:
    """Runs the coroutines of one rank.

    After `run`, the rank that called `finish` has its ``outcome``, the ``clock`` of the answer and
    the moment at which it was there, ``finished_at``.

    Parameters
    ----------
    rank, size : int
        This rank and how many there are.
    calls : Calls
        Makes the network calls.
    transport : Transport
        Moves values to and from the other ranks.
    events : EventLog
        Is told what happened when.
    outputs : Listener
        Is told of checkpoints and answers, and may end the run: the run's outputs.
    shown : Layout, optional
        Of an answer, if the other ranks are to get every answer too.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        calls: Calls,
        transport: Transport,
        events: EventLog,
        outputs: Listener,
        shown: Layout | None = None,
    ) -> None:
        self.rank = rank
        self.size = size
        self.outcome: Outcome | None = None
        self.clock = Clock()
        self.finished_at = 0.0
        self._calls = calls
        self._transport = transport
        self._events = events
        self.outputs = outputs
        self._post = Post(rank, size, transport)
        self._answers = Answers(outputs, self._post, shown)
        self._failures = Failures(self._post)
        self._cells: list[Cells] = []
        self._ready: deque[tuple[Task, Any]] = deque()
        self._values = Values()
        self._current: Task | None = None
        self._stopped = False
        self._last: int | None = None  # iteration of the answer, once it is known
        self._records = Records()

    def cells(
        self,
        layout: Layout,
        made_on: Callable[[int], int],
        read_on: Callable[[int], list[int]],
        kept_on: Callable[[int], int] | None = None,
    ) -> Cells:
        """Declare values of one name, see `Cells`; every rank declares the same in one order."""
        of = layout, made_on, read_on, kept_on
        self._cells.append(Cells(len(self._cells), *of, self.rank, self._put))
        return self._cells[-1]

    def spawn(self, on: int, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Start the coroutine ``work(*args)`` if ``on`` is this rank."""
        if on == self.rank:
            if self._current is not None and self._calls.knows(self._current):
                self._check_last()
            clock = self._current.clock if self._current else Clock()
            self._ready.append((Task(work(*args), clock), None))

    def keep(self, n: int, k: int, value: Tensor) -> None:
        """Record column ``n`` of iteration ``k`` on this rank; in the order of iterations."""
        self._check_last()
        self.outputs.state(n, k, value)
        self._records.add(n, k)
        if self._last is not None:
            self._end_after(self._last)

    def keeps(self, columns: Callable[[int], Collection[int]]) -> None:
        """Promise that this rank will `keep` the columns ``columns(k)`` of iteration k.

        When the run is finished after iteration k, this rank goes on until it has done so. The
        method sees to it that it can, with what other ranks make before they have kept theirs.
        """
        self._records.promised = columns

    def answer(self, k: int, answer: Tensor, change: NDArray[np.float64] | None) -> AnswerRequest:
        """Show the outputs the answer of iteration ``k``, see `Output.answer`. Rank 0.

        Await the result: True if the run ends here.
        """
        self._check_last()
        return AnswerRequest(k, answer, change)

    def finish(self, outcome: Outcome) -> None:
        """End the run on every rank; called on the one rank that knows the outcome.

        When `run` has returned, every rank has recorded what it keeps of the last iteration.
        """
        assert self._current is not None
        self._check_last()
        self.outcome = outcome
        self.clock = self._current.clock
        self.finished_at = self._events.now()
        self._post.tell_all(Control.STOP, outcome.iterations)
        self._end_after(outcome.iterations)

    def _end_after(self, k: int) -> None:
        """Stop this rank, once it has recorded what it has promised of iteration ``k``."""
        self._last = k
        self._stopped = self._records.whole(k)

    def run(self) -> Generator[tuple[int, Tensor], bool | None, None]:
        """Run until some rank calls `finish`; then `close` it.

        After an error it is closed already, if the ranks can still agree.

        Yields
        ------
        k : int
            Iteration.
        answer : Tensor, shape (S, *shape)
            Its answer, on rank 0, and on the others if ``shown`` was given. Send True back on
            rank 0 to end the run here; what other ranks send back is not read.

        Raises
        ------
        PeerFailure
            If another rank failed.
        Interrupted
            If some rank was asked to end the run.
        TransportError
            If messages can no longer be moved; the other ranks do not know.
        Exception
            Whatever a coroutine or the network raised here; the other ranks are told first.
        """
        try:
            while not self._stopped:
                self._advance()
                if self._stopped:
                    break
                if self._answers.asking is not None:
                    self._ready.append((yield from self._answers.show()))
                    continue
                yield from self._answers.heard()
                self._look()
                if self._take_in(0.0):
                    continue
                batch = self._choose()
                if self._answers.asking is not None:
                    continue
                self._failures.note(self._calls.take_failed())
                self._failures.weigh(self._answers.last + 1, self._last)
                if batch:
                    self._ready += self._calls.call(batch)
                elif not self._stopped:
                    self._idle(None)
        except (TransportError, PeerFailure, Interrupted) as error:
            if not isinstance(error, TransportError):
                self._abandon()
            raise
        except BaseException as error:  # also a key press, or a caller who does not go on
            try:
                self._post.tell_all(Control.FAILURE)
                self._abandon()
            except Exception as second:
                raise TransportError(f"{second}, after {error!r}") from error
            raise
        self._drop()
        yield from self._answers.heard()

    def close(self) -> None:
        """Wait until every rank does so; then no message is under way. See `Transport.close`."""
        self._transport.close()

    def _look(self) -> None:
        """See whether the outputs end the run; if this rank was asked to end, tell the others."""
        if self._last is not None:
            return  # it has ended: this rank records its last checkpoint
        try:
            self.outputs.check()
        except Interrupted:
            self._post.tell_all(Control.INTERRUPT)
            raise

    def _advance(self) -> None:
        """Run coroutines until each awaits something that is not there yet."""
        while self._ready and not self._stopped and self._answers.asking is None:
            task, value = self._ready.popleft()
            if task.dropped:
                continue
            self._current = task
            try:
                request = task.coroutine.send(value)
            except (StopIteration, DroppedError):
                continue
            finally:
                self._current = None
            if isinstance(request, EvaluateRequest | Together):
                self._calls.add(task, request)
            elif isinstance(request, AnswerRequest):
                self._answers.asking = task, request
            else:
                self._ready += self._values.take(task, request.key)

    def _choose(self) -> list[Pending]:
        """Pick the evaluations of the next call, oldest iteration first.

        If all of them had better share their call with what a value from another rank sets off,
        wait a little for that value: two evaluations in one call instead of one after the other.
        """
        batch = self._calls.oldest()
        if self._calls.limit == 1:
            return batch
        meet = Calls.meeting(batch, self._values.delivered)
        if meet and len(meet) == len(batch):
            deadline = time.perf_counter() + PATIENCE * self._calls.last
            while not (self._stopped or self._answers.asking or meet <= self._values.delivered):
                left = deadline - time.perf_counter()
                if left <= 0:
                    break
                self._idle(left)
                self._advance()
            batch = [] if self._stopped else self._calls.oldest()
        for pending in batch:
            pending.request.meet = None
        return batch

    def _idle(self, timeout: float | None) -> None:
        """Sleep until something has arrived, or for ``timeout`` seconds, or until interrupted."""
        start = self._events.now()
        if timeout is not None:
            self._take_in(timeout)
        else:
            while not self._take_in(LONGEST_SLEEP):
                self._look()
        self._events.add(Event(-1, -1, "wait", start, self._events.now()))

    def _put(self, cells: Cells, key: Key, data: Tensor | None) -> None:
        assert self._current is not None
        self._check_last()
        if cells.made_on(key.n) != self.rank:
            raise RuntimeError(f"{key} is made on rank {cells.made_on(key.n)}, not {self.rank}")
        clock = self._current.clock
        readers = set(cells.read_on(key.n))
        others = sorted(readers - {self.rank})
        if others:
            self._transport.send(others, Message(key, clock, data))
        if self.rank in readers:
            self._deliver(cells, key, clock, data, data)

    def _deliver(
        self, cells: Cells, key: Key, clock: Clock, data: Tensor | None, kept: Tensor | None
    ) -> None:
        """Hand a value to those who await it; ``kept`` has the same values, to be recorded."""
        if key in self._values.delivered:
            raise RuntimeError(f"{key} was made twice")
        self._values.delivered.add(key)
        if cells.kept_on is not None and cells.kept_on(key.n) == self.rank:
            self.outputs.state(key.n, key.k, kept)
        shares = cells.read_on(key.n).count(self.rank)
        self._ready += self._values.put(key, data, clock, shares)

    def _take_in(self, timeout: float | None) -> bool:
        """Take in what has arrived; tell whether anything had."""
        messages = self._transport.receive(timeout)
        for message in messages:
            key = message.key
            if key.cells == Control.STOP:
                self._end_after(key.k)
            elif key.cells == Control.FAILURE:
                self._failures.end(key.n)
            elif key.cells == Control.FAILED:
                self._failures.hear(key.n, key.k)
            elif key.cells == Control.INTERRUPT:
                raise Interrupted(f"rank {key.n} was interrupted by a signal")
            elif key.cells in (Control.WRITE, Control.PASS):
                self.outputs.decided(key.k, key.cells == Control.WRITE)
            elif key.cells == Control.ANSWER:
                self._answers.hear(message)
            else:
                cells = self._cells[key.cells]
                # Recorded is what has come, on the host: the device need not give it back.
                self._deliver(cells, key, message.clock, *message.value(cells.layout))
        return bool(messages)

    def _check_last(self) -> None:
        """Check the last call before anything that came of it is recorded, sent or begun."""
        self._calls.check_last()
        if self._current is not None and self._current.dropped:
            raise DroppedError

    def _abandon(self) -> None:
        """Drop what is still speculation and drain the messages under way."""
        self._drop()
        self._transport.close()

    def _drop(self) -> None:
        for task in (*(t for t, _ in self._ready), *self._calls.tasks, *self._values.tasks):
            task.coroutine.close()
        self._ready.clear()
        self._calls.clear()
        self._values.clear()
