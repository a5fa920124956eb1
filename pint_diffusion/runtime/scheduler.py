"""The runtime of one rank: it runs the rank's coroutines and decides when what is evaluated.

Invariants. A value is written once and handed out exactly as often as its cells say. Which
coroutine runs first never changes what is computed, only when: every decision that shapes the
answer is a function of values. Nothing here knows an algorithm, and nothing waits on a barrier.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor

from pint_diffusion.errors import Interrupted, PeerFailure, TransportError
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.runtime.evaluator import Evaluator
from pint_diffusion.runtime.events import Event, EventLog
from pint_diffusion.runtime.requests import Cells, Clock, EvaluateRequest, Key, Layout, Together
from pint_diffusion.runtime.transports.base import Control, Message, Transport

PATIENCE = 0.5
"""A call may be held back by this share of the last call's length for a value that is due."""

_order = attrgetter("request.order")

LONGEST_SLEEP = 0.2
"""Seconds after which a rank that waits looks whether somebody asked it to end."""

Record = Callable[[int, int, Tensor | None], None]
Decided = Callable[[int, bool], None]


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
    record : callable
        Takes (n, k, value) of every value that this rank keeps.
    interrupted : callable
        Tells whether somebody asked this rank to end the run; may raise what ends it.
    decided : callable
        Takes (k, write) once it is known whether to write iteration k, see `decide`.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        evaluators: Sequence[Evaluator],
        transport: Transport,
        events: EventLog,
        batch_limit: int | None,
        record: Record,
        interrupted: Callable[[], bool] = lambda: False,
        decided: Decided = lambda k, write: None,
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
        self._record = record
        self._interrupted = interrupted
        self._decided = decided
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
        """Record column ``n`` of iteration ``k``, which every rank has, on this one."""
        self._settle()
        self._record(n, k, value)

    def decide(self, k: int, write: bool) -> None:
        """Tell every rank whether to write iteration ``k``; called where it has been judged."""
        self._decided(k, write)
        self._tell_all(Control.WRITE if write else Control.PASS, k)

    def finish(self, outcome: Outcome) -> None:
        """End the run on every rank; called on the one rank that knows the outcome."""
        assert self._current is not None
        self.outcome = outcome
        self.clock = self._current.clock
        self.finished_at = self._events.now()
        self._tell_all(Control.STOP)
        self._stopped = True

    # ---- the loop --------------------------------------------------------------------------

    def run(self) -> None:
        """Run until some rank calls `finish`; afterwards no message is under way.

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
                if self._interrupted():
                    self._tell_all(Control.INTERRUPT)
                    raise Interrupted("interrupted by a signal")
                if self._take_in(0.0):
                    continue
                batch = self._choose()
                if batch:
                    self._call(batch)
                elif not self._stopped:
                    self._idle(None)
        except TransportError:
            raise
        except (PeerFailure, Interrupted):
            self._abandon()
            raise
        except (Exception, SystemExit) as error:
            try:
                self._tell_all(Control.FAILURE)
                self._abandon()
            except Exception as second:
                raise TransportError(f"{second}, after {error!r}") from error
            raise
        self._abandon()

    def _advance(self) -> None:
        """Run coroutines until each awaits something that is not there yet."""
        while self._ready and not self._stopped:
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
            while not self._stopped and not meet <= self._delivered:
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
            while not self._take_in(LONGEST_SLEEP) and not self._interrupted():
                pass
        self._events.add(Event(-1, -1, "wait", start, self._events.now()))

    # ---- values ----------------------------------------------------------------------------

    def _put(self, cells: Cells, key: Key, data: Tensor | None) -> None:
        assert self._current is not None
        self._settle()
        if cells.made_on(key.n) != self.rank:
            raise RuntimeError(f"{key} is made on rank {cells.made_on(key.n)}, not {self.rank}")
        clock = self._current.clock
        for rank in sorted(set(cells.read_on(key.n))):
            if rank == self.rank:
                self._deliver(cells, key, clock, data)
            else:
                self._transport.send(rank, Message(key, clock, data))

    def _deliver(self, cells: Cells, key: Key, clock: Clock, data: Tensor | None) -> None:
        if key in self._delivered:
            raise RuntimeError(f"{key} was made twice")
        self._delivered.add(key)
        if cells.kept_on is not None and cells.kept_on(key.n) == self.rank:
            self._record(key.n, key.k, data)
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
                self._stopped = True
            elif key.cells == Control.FAILURE:
                raise PeerFailure(f"rank {key.n} failed")
            elif key.cells == Control.INTERRUPT:
                raise Interrupted(f"rank {key.n} was interrupted by a signal")
            elif key.cells in (Control.WRITE, Control.PASS):
                self._decided(key.k, key.cells == Control.WRITE)
            else:
                cells = self._cells[key.cells]
                self._deliver(cells, key, message.clock, self._unpack(cells, message.data))
        return bool(messages)

    def _unpack(self, cells: Cells, raw: Tensor | None) -> Tensor | None:
        if raw is None:
            return None
        shape, dtype, device = cells.layout
        return raw.view(dtype).view(shape).to(device, non_blocking=True)

    def _tell_all(self, control: Control, k: int = 0) -> None:
        message = Message(Key(control, self.rank, k), Clock(), None)
        for rank in range(self.size):
            if rank != self.rank:
                self._transport.send(rank, message)

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
