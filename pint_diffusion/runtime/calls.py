"""Network calls: which evaluations go into the next one, and what came of it."""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Sequence
from operator import attrgetter
from typing import Any

from pint_diffusion.errors import NetworkError, NetworkRaisedError, PintError
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.runtime.evaluator import Evaluator
from pint_diffusion.runtime.events import Event, EventLog
from pint_diffusion.runtime.requests import Clock, EvaluateRequest, Key, Together

_order = attrgetter("request.order")


class Task:
    """A coroutine and the clock of the last thing it learnt.

    A task is dropped when an evaluation fails that it has asked for: it does not go on.
    """

    __slots__ = ("clock", "coroutine", "dropped")

    def __init__(self, coroutine: Coroutine[Any, Any, None], clock: Clock) -> None:
        self.coroutine = coroutine
        self.clock = clock
        self.dropped = False


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


class Calls:
    """The evaluations that coroutines of a rank wait for, and the network calls for them.

    Parameters
    ----------
    evaluators : sequence of Evaluator
        Make the calls, one for each network of the run.
    events : EventLog
        Is told what was evaluated when.
    limit : int or None
        Most evaluations in one call; None for no limit, 1 turns batching off.

    Attributes
    ----------
    last : float
        Seconds of the last call.
    """

    def __init__(
        self, evaluators: Sequence[Evaluator], events: EventLog, limit: int | None
    ) -> None:
        self.limit = limit
        self.last = 0.0
        self._failed: list[tuple[int, PintError]] = []
        self._evaluators = evaluators
        self._events = events
        self._pending: list[Pending] = []
        self._open: tuple[Evaluator, list[Pending], float] | None = None
        self._busy_until = 0.0
        self._depth = 0

    @property
    def tasks(self) -> list[Task]:
        """The coroutines that wait."""
        return [pending.task for pending in self._pending]

    def clear(self) -> None:
        """Forget the evaluations."""
        self._pending.clear()

    def add(self, task: Task, request: EvaluateRequest | Together) -> None:
        """Take in what a coroutine waits for."""
        if isinstance(request, EvaluateRequest):
            self._pending.append(Pending(task, request, []))
            return
        answers: list[Prediction | None] = [None] * len(request.requests)
        for at, one in enumerate(request.requests):
            self._pending.append(Pending(task, one, answers, at))

    def oldest(self) -> list[Pending]:
        """Return what may go into the next call: evaluations of one network, in their order."""
        pending = self._pending
        if len(pending) > 1:
            pending.sort(key=_order)
        if len(self._evaluators) > 1 and pending:
            network = pending[0].request.ask.network
            pending = [one for one in pending if one.request.ask.network == network]
        return pending[: self.limit]

    @staticmethod
    def meeting(batch: list[Pending], there: Collection[Key]) -> set[Key]:
        """Return the values from other ranks that these evaluations had better wait for."""
        wanted = [pending.request.meet for pending in batch]
        return {one.key for one in wanted if one and one.remote and one.key not in there}

    def call(self, batch: list[Pending]) -> list[tuple[Task, Any]]:
        """Make one network call; return the coroutines that have all they asked for, with it.

        If it fails as a whole, each evaluation is made by itself, so that each fails by itself.
        """
        self.check_last()
        self._take(batch)
        batch = [pending for pending in batch if not pending.task.dropped]
        if not batch:
            return []
        evaluator = self._evaluators[batch[0].request.ask.network]
        start = self._events.now()
        failed: PintError | None = None
        try:
            predictions = evaluator.start([pending.request for pending in batch])
        except (NetworkError, NetworkRaisedError) as error:
            failed = error
        if failed is not None:
            if len(batch) > 1:
                return [ready for pending in batch for ready in self.call([pending])]
            self._drop(batch[0], failed)
            return []
        self._open = evaluator, batch, start
        if not evaluator.late:
            self.check_last()
        self._depth = 1 + max(self._depth, *(pending.task.clock.calls for pending in batch))
        ready: list[tuple[Task, Any]] = []
        for pending, prediction in zip(batch, predictions, strict=True):
            answer: Any = prediction
            task = pending.task
            if task.dropped:
                continue
            if pending.answers:
                pending.answers[pending.at] = prediction
                if None in pending.answers:
                    continue
                answer = pending.answers
            task.clock = Clock(task.clock.deep + 1, self._depth)
            ready.append((task, answer))
        return ready

    def check_last(self) -> None:
        """Check and log the last network call; nothing that it returned leaves this rank before.

        Tasks for which it returned NaN are dropped.
        """
        if self._open is None:
            return
        (evaluator, batch, start), self._open = self._open, None
        (seconds, failed), stop = evaluator.look(), self._events.now()
        if seconds:  # a GPU begins when the call before has ended, and its caller goes on at once
            start = max(start, self._busy_until)
            stop = start + seconds
        self._busy_until = stop
        self.last = stop - start
        for pending in batch:
            ask = pending.request.ask
            self._events.add(Event(ask.n, ask.k, ask.kind, start, stop))
        for at, error in failed.items():
            self._drop(batch[at], error)

    def take_failed(self) -> list[tuple[int, PintError]]:
        """Return the evaluations that have failed since: which iteration needs each, and why."""
        failed, self._failed = self._failed, []
        return failed

    def knows(self, task: Task) -> bool:
        """Tell whether a task has something of a call that nobody has looked at."""
        return self._open is not None and any(one.task is task for one in self._open[1])

    def _take(self, batch: list[Pending]) -> None:
        if self._pending[: len(batch)] == batch:
            del self._pending[: len(batch)]
        else:
            chosen = set(map(id, batch))
            self._pending = [one for one in self._pending if id(one) not in chosen]

    def _drop(self, pending: Pending, error: PintError) -> None:
        """Drop the task of an evaluation that has failed."""
        task = pending.task
        task.dropped = True
        self._pending = [one for one in self._pending if one.task is not task]
        self._failed.append((pending.request.ask.needed, error))
