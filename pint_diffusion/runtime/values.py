"""Values that coroutines of this rank await, and columns of checkpoints that it has recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor

from pint_diffusion.runtime.calls import Task
from pint_diffusion.runtime.requests import Clock, Key


class Values:
    """Values by their keys, each handed out as often as its cells say, and those who wait."""

    def __init__(self) -> None:
        self.delivered: set[Key] = set()
        self._there: dict[Key, tuple[Tensor | None, Clock, int]] = {}
        self._waiting: dict[Key, list[Task]] = {}

    @property
    def tasks(self) -> list[Task]:
        """The coroutines that wait."""
        return [task for waiting in self._waiting.values() for task in waiting]

    def clear(self) -> None:
        """Forget the values and those who wait."""
        self._there.clear()
        self._waiting.clear()

    def take(self, task: Task, key: Key) -> list[tuple[Task, Any]]:
        """Return a coroutine with the value that it awaits, or nobody if that is not there yet."""
        if key in self._there:
            return [self._hand_out(task, key)]
        self._waiting.setdefault(key, []).append(task)
        return []

    def put(
        self, key: Key, data: Tensor | None, clock: Clock, shares: int
    ) -> list[tuple[Task, Any]]:
        """Take in a value that is awaited so often; return the coroutines that wait, with it."""
        self._there[key] = data, clock, shares
        return [self._hand_out(task, key) for task in self._waiting.pop(key, [])]

    def _hand_out(self, task: Task, key: Key) -> tuple[Task, Any]:
        data, clock, shares = self._there.pop(key)
        if shares > 1:
            self._there[key] = data, clock, shares - 1
        task.clock = task.clock.join(clock)
        return task, data


class Records:
    """Columns of checkpoints that this rank has recorded.

    Attributes
    ----------
    promised : callable
        Iteration k -> columns that the rank records of it.
    """

    def __init__(self) -> None:
        self.promised: Callable[[int], Collection[int]] = lambda k: ()
        self._newest: dict[int, int] = {}

    def add(self, n: int, k: int) -> None:
        """Note that column ``n`` of iteration ``k`` was recorded."""
        self._newest[n] = k

    def whole(self, k: int) -> bool:
        """Tell whether all that was promised of iteration ``k`` was recorded."""
        return all(self._newest.get(n, -1) >= k for n in self.promised(k))
