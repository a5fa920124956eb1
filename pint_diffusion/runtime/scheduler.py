"""The runtime of one rank: it runs the rank's coroutines and decides when what is evaluated.

Invariants. A value is written once and handed out exactly as often as its cells say. Which
coroutine runs first never changes what is computed, only when: every decision that shapes the
answer is a function of values. Nothing here knows an algorithm, and nothing waits on a barrier.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Generator, Sequence
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.errors import Interrupted, PeerFailure, TransportError
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.runtime.evaluator import Evaluator
from pint_diffusion.runtime.events import Event, EventLog
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

PATIENCE = 0.5
"""A call may be held back by this share of the last call's length for a value that is due."""

_order = attrgetter("request.order")

LONGEST_SLEEP = 0.2
"""Seconds after which a rank that waits looks whether somebody asked it to end."""


class Listener(Protocol):
    """What the runtime tells of a run; see `pint_diffusion.output.Output`."""

    def state(self, n: int, k: int, state: Tensor | None) -> None: ...  # noqa: D102

    def boundary(self, n: int, k: int) -> None: ...  # noqa: D102

    def answer(  # noqa: D102
        self, k: int, answer: Tensor, change: NDArray[np.float64] | None
    ) -> bool | None: ...

    def wants(self, k: int) -> bool | None: ...  # noqa: D102

    def decided(self, k: int, wanted: bool) -> None: ...  # noqa: D102

    def check(self) -> None: ...  # noqa: D102


class Task:
    """A coroutine and the clock of the last thing it learnt."""

    __slots__ = ("clock", "coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, None], clock: Clock) -> None:
        self.coroutine = coroutine
        self.clock = clock


class Pending:
    """An evaluation that a task awaits, and where the answer goes if it awaits several."""

    __slots__ = ("answers", "at", "request", "task")

    def __init__(
        self, task: Task, request: EvaluateRequest, answers: list[Prediction | None], at: int = 0
    ) -> None:
        self.task = task
        self.request = request
        self.answers = answers
        self.at = at


class Runtime:
    """Runs the coroutines of one rank.

    After `run`, the rank that called `finish` has its ``outcome``, the ``clock`` of the answer and
    the moment at which it was there, ``finished_at``.

    Parameters
    ----------
    rank, size : int
        This rank and how many there are.
    evaluators : sequence of Evaluator
        Make the network calls, one for each network of the run.
    transport : Transport
        Moves values to and from the other ranks.
    events : EventLog
        Is told what happened when.
    batch_limit : int or None
        Most evaluations in one network call; None for no limit, 1 turns batching off.
    outputs : Listener
        Is told of checkpoints and answers, and may end the run: the run's outputs.
    shown : Layout, optional
        Of an answer, if the other ranks are to get every answer too.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        evaluators: Sequence[Evaluator],
        transport: Transport,
        events: EventLog,
        batch_limit: int | None,
        outputs: Listener,
        shown: Layout | None = None,
    ) -> None:
        self.rank = rank
        self.size = size
        self.outcome: Outcome | None = None
        self.clock = Clock()
        self.finished_at = 0.0
        self._evaluators = evaluators
        self._transport = transport
        self._events = events
        self._batch_limit = batch_limit
        self._outputs = outputs
        self._shown = shown
        self._asking: tuple[Task, AnswerRequest] | None = None
        self._heard: deque[tuple[int, Tensor]] = deque()
        self._cells: list[Cells] = []
        self._ready: deque[tuple[Task, Any]] = deque()
        self._pending: list[Pending] = []
        self._open: tuple[Evaluator, list[Pending], float] | None = None
        self._busy_until = 0.0
        self._waiting: dict[Key, list[Task]] = {}
        self._values: dict[Key, tuple[Tensor | None, Clock, int]] = {}
        self._delivered: set[Key] = set()
        self._current: Task | None = None
        self._last_call = 0.0
        self._calls = 0
        self._stopped = False
        self._last: int | None = None  # iteration of the answer, once it is known
        self._promised: Callable[[int], Collection[int]] = lambda k: ()
        self._recorded: dict[int, int] = {}  # column -> iteration

    # ---- what methods use ------------------------------------------------------------------

    def cells(
        self,
        layout: Layout,
        made_on: Callable[[int], int],
        read_on: Callable[[int], list[int]],
        kept_on: Callable[[int], int] | None = None,
    ) -> Cells:
        """Declare values of one name, see `Cells`; every rank declares the same in one order."""
        index = len(self._cells)
        made = Cells(index, layout, made_on, read_on, kept_on, self.rank, self._put)
        self._cells.append(made)
        return made

    def spawn(self, on: int, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Start the coroutine ``work(*args)`` if ``on`` is this rank."""
        if on == self.rank:
            clock = self._current.clock if self._current else Clock()
            self._ready.append((Task(work(*args), clock), None))

    def keep(self, n: int, k: int, value: Tensor) -> None:
        """Record column ``n`` of iteration ``k`` on this rank; in the order of iterations."""
        self._settle()
        self._outputs.state(n, k, value)
        self._recorded[n] = k
        if self._last is not None:
            self._end_after(self._last)

    def keeps(self, columns: Callable[[int], Collection[int]]) -> None:
        """Promise that this rank will `keep` the columns ``columns(k)`` of iteration k.

        When the run is finished after iteration k, this rank goes on until it has done so. The
        method sees to it that it can, with what other ranks make before they have kept theirs.
        """
        self._promised = columns

    def boundary(self, n: int, k: int) -> None:
        """Tell the outputs that boundary state u_n^k, n < M, exists. Rank 0."""
        self._outputs.boundary(n, k)

    def answer(self, k: int, answer: Tensor, change: NDArray[np.float64] | None) -> AnswerRequest:
        """Show the outputs the answer of iteration ``k``, see `Output.answer`. Rank 0.

        Await the result: True if the run ends here.
        """
        return AnswerRequest(k, answer, change)

    def finish(self, outcome: Outcome) -> None:
        """End the run on every rank; called on the one rank that knows the outcome.

        When `run` has returned, every rank has recorded what it keeps of the last iteration.
        """
        assert self._current is not None
        self.outcome = outcome
        self.clock = self._current.clock
        self.finished_at = self._events.now()
        self._tell_all(Control.STOP, outcome.iterations)
        self._end_after(outcome.iterations)

    def _end_after(self, k: int) -> None:
        """Stop this rank, once it has recorded what it has promised of iteration ``k``."""
        self._last = k
        self._stopped = all(self._recorded.get(n, -1) >= k for n in self._promised(k))

    # ---- the loop --------------------------------------------------------------------------

    def run(self) -> Generator[tuple[int, Tensor], bool | None, None]:
        """Run until some rank calls `finish`; afterwards no message is under way.

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
                if self._asking is not None:
                    yield from self._show(*self._asking)
                    continue
                while self._heard:
                    yield self._heard.popleft()
                self._look()
                if self._take_in(0.0):
                    continue
                batch = self._choose()
                if self._asking is not None:
                    continue
                if batch:
                    self._call(batch)
                elif not self._stopped:
                    self._idle(None)
        except TransportError:
            raise
        except (PeerFailure, Interrupted):
            self._abandon()
            raise
        except BaseException as error:  # also a key press, or a caller who does not go on
            try:
                self._tell_all(Control.FAILURE)
                self._abandon()
            except Exception as second:
                raise TransportError(f"{second}, after {error!r}") from error
            raise
        self._abandon()
        while self._heard:
            yield self._heard.popleft()

    def _show(
        self, task: Task, asked: AnswerRequest
    ) -> Generator[tuple[int, Tensor], bool | None, None]:
        """Show an answer to the outputs, to the other ranks if they get it, and to the caller."""
        self._asking = None
        k, answer = asked.k, asked.answer
        stop = bool(self._outputs.answer(k, answer, asked.change))
        wanted = self._outputs.wants(k)
        if wanted is not None:
            self._outputs.decided(k, wanted)
            self._tell_all(Control.WRITE if wanted else Control.PASS, k)
        if self._shown is not None:
            self._tell_all(Control.ANSWER, k, answer)
        stop = bool((yield k, answer)) or stop
        self._ready.append((task, stop))

    def _look(self) -> None:
        """See whether the outputs end the run; if this rank was asked to end, tell the others."""
        if self._last is not None:
            return  # it has ended: this rank records its last checkpoint
        try:
            self._outputs.check()
        except Interrupted:
            self._tell_all(Control.INTERRUPT)
            raise

    def _advance(self) -> None:
        """Run coroutines until each awaits something that is not there yet."""
        while self._ready and not self._stopped and self._asking is None:
            task, value = self._ready.popleft()
            self._current = task
            try:
                request = task.coroutine.send(value)
            except StopIteration:
                continue
            finally:
                self._current = None
            if isinstance(request, EvaluateRequest):
                self._pending.append(Pending(task, request, []))
            elif isinstance(request, Together):
                answers: list[Prediction | None] = [None] * len(request.requests)
                for at, one in enumerate(request.requests):
                    self._pending.append(Pending(task, one, answers, at))
            elif isinstance(request, AnswerRequest):
                self._asking = task, request
            elif request.key in self._values:
                self._hand_out(task, request.key)
            else:
                self._waiting.setdefault(request.key, []).append(task)

    def _choose(self) -> list[Pending]:
        """Pick the evaluations of the next call, oldest iteration first.

        If all of them had better share their call with what a value from another rank sets off,
        wait a little for that value: two evaluations in one call instead of one after the other.
        """
        batch = self._oldest()
        if self._batch_limit == 1:
            return batch
        meet = {
            pending.request.meet.key
            for pending in batch
            if pending.request.meet is not None
            and pending.request.meet.remote
            and pending.request.meet.key not in self._delivered
        }
        if meet and len(meet) == len(batch):
            deadline = time.perf_counter() + PATIENCE * self._last_call
            while not (self._stopped or self._asking or meet <= self._delivered):
                left = deadline - time.perf_counter()
                if left <= 0:
                    break
                self._idle(left)
                self._advance()
            batch = [] if self._stopped else self._oldest()
        for pending in batch:
            pending.request.meet = None
        return batch

    def _oldest(self) -> list[Pending]:
        """Return what may go into the next call: evaluations of one network, in their order."""
        pending = self._pending
        if len(pending) > 1:
            pending.sort(key=_order)
        if len(self._evaluators) > 1 and pending:
            network = pending[0].request.ask.network
            pending = [one for one in pending if one.request.ask.network == network]
        return pending[: self._batch_limit]

    def _call(self, batch: list[Pending]) -> None:
        """Make one network call and wake the coroutines that asked for it."""
        self._settle()
        if self._pending[: len(batch)] == batch:
            del self._pending[: len(batch)]
        else:
            chosen = set(map(id, batch))
            self._pending = [one for one in self._pending if id(one) not in chosen]
        evaluator = self._evaluators[batch[0].request.ask.network]
        start = self._events.now()
        predictions = evaluator([pending.request for pending in batch])
        self._open = evaluator, batch, start
        if not evaluator.late:
            self._settle()
        self._calls = 1 + max(self._calls, *(pending.task.clock.calls for pending in batch))
        for pending, prediction in zip(batch, predictions, strict=True):
            answer: Any = prediction
            if pending.answers:
                pending.answers[pending.at] = prediction
                if None in pending.answers:
                    continue
                answer = pending.answers
            task = pending.task
            task.clock = Clock(task.clock.deep + 1, self._calls)
            self._ready.append((task, answer))

    def _settle(self) -> None:
        """Look at what the last network call returned; nothing of it leaves this rank before."""
        if self._open is None:
            return
        (evaluator, batch, start), self._open = self._open, None
        seconds, stop = evaluator.check(), self._events.now()
        if seconds:  # a GPU begins when the call before has ended, and its caller goes on at once
            start = max(start, self._busy_until)
            stop = start + seconds
        self._busy_until = stop
        self._last_call = stop - start
        self._events.longest = max(self._events.longest, self._last_call)
        for pending in batch:
            ask = pending.request.ask
            self._events.add(Event(ask.n, ask.k, ask.kind, start, stop))

    def _idle(self, timeout: float | None) -> None:
        """Sleep until something has arrived, or for ``timeout`` seconds, or until interrupted."""
        start = self._events.now()
        if timeout is not None:
            self._take_in(timeout)
        else:
            while not self._take_in(LONGEST_SLEEP):
                self._look()
        self._events.add(Event(-1, -1, "wait", start, self._events.now()))

    # ---- values ----------------------------------------------------------------------------

    def _put(self, cells: Cells, key: Key, data: Tensor | None) -> None:
        assert self._current is not None
        self._settle()
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
        if key in self._delivered:
            raise RuntimeError(f"{key} was made twice")
        self._delivered.add(key)
        if cells.kept_on is not None and cells.kept_on(key.n) == self.rank:
            self._outputs.state(key.n, key.k, kept)
        self._values[key] = (data, clock, cells.read_on(key.n).count(self.rank))
        for task in self._waiting.pop(key, []):
            self._hand_out(task, key)

    def _hand_out(self, task: Task, key: Key) -> None:
        data, clock, shares = self._values.pop(key)
        if shares > 1:
            self._values[key] = (data, clock, shares - 1)
        task.clock = task.clock.join(clock)
        self._ready.append((task, data))

    # ---- messages --------------------------------------------------------------------------

    def _take_in(self, timeout: float | None) -> bool:
        """Take in what has arrived; tell whether anything had."""
        messages = self._transport.receive(timeout)
        for message in messages:
            key = message.key
            if key.cells == Control.STOP:
                self._end_after(key.k)
            elif key.cells == Control.FAILURE:
                raise PeerFailure(f"rank {key.n} failed")
            elif key.cells == Control.INTERRUPT:
                raise Interrupted(f"rank {key.n} was interrupted by a signal")
            elif key.cells in (Control.WRITE, Control.PASS):
                self._outputs.decided(key.k, key.cells == Control.WRITE)
            elif key.cells == Control.ANSWER:
                assert self._shown is not None
                answer, _ = _unpacked(message.data, self._shown)
                assert answer is not None
                self._heard.append((key.k, answer))
            else:
                cells = self._cells[key.cells]
                # Recorded is what has come, on the host: the device need not give it back.
                self._deliver(cells, key, message.clock, *_unpacked(message.data, cells.layout))
        return bool(messages)

    def _tell_all(self, control: Control, k: int = 0, data: Tensor | None = None) -> None:
        others = [rank for rank in range(self.size) if rank != self.rank]
        self._transport.send(others, Message(Key(control, self.rank, k), Clock(), data))

    def _abandon(self) -> None:
        """Drop what is still speculation and drain the messages under way."""
        tasks = [*(task for task, _ in self._ready), *(one.task for one in self._pending)]
        for task in (*tasks, *(t for waiting in self._waiting.values() for t in waiting)):
            task.coroutine.close()
        self._ready.clear()
        self._pending.clear()
        self._waiting.clear()
        self._values.clear()
        self._transport.close()


def _unpacked(raw: Tensor | None, layout: Layout) -> tuple[Tensor | None, Tensor | None]:
    """Return a value that has arrived, on the device of its layout and on the host."""
    if raw is None:
        return None, None
    host = raw.view(layout.dtype).view(layout.shape)
    return host.to(layout.device, non_blocking=True), host
