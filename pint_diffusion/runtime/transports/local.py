"""The transport of a run in one process."""

from __future__ import annotations

from collections.abc import Sequence

from pint_diffusion.errors import TransportError
from pint_diffusion.runtime.limits import OnLost, Overdue, Patrol
from pint_diffusion.runtime.transports.base import Message


class LocalTransport:
    """Moves nothing: one process makes and reads every value.

    Parameters
    ----------
    overdue : Overdue, optional
        Tells when a network call takes too long. A thread looks at it.
    on_lost : callable, optional
        Is told of it by that thread.
    """

    def __init__(self, overdue: Overdue | None = None, on_lost: OnLost | None = None) -> None:
        self._overdue, self._on_lost = overdue, on_lost
        self._patrol = Patrol(self._look, overdue.period) if overdue else None
        self._lost: str | None = None

    def _look(self, passed: float) -> bool:
        assert self._overdue is not None
        cause = self._overdue.look(passed)
        if cause is not None and self._on_lost is not None:
            self._on_lost(cause, 0)
        self._lost = cause
        return cause is not None

    def _check(self) -> None:
        if self._lost is not None:
            raise TransportError(self._lost, told_by=0)

    def send(self, ranks: Sequence[int], message: Message) -> None:
        """Refuse to send to another rank: there is none.

        Raises
        ------
        RuntimeError
            If there are ranks to send to.
        """
        if ranks:
            raise RuntimeError(f"a message to ranks {ranks} in a run of one process: {message.key}")

    def receive(self, timeout: float | None) -> list[Message]:
        """Return nothing, for nothing ever arrives.

        Raises
        ------
        RuntimeError
            If the caller would wait for it.
        TransportError
            If a network call has taken too long.
        """
        self._check()
        if timeout != 0:
            raise RuntimeError("every coroutine awaits a value that nobody makes")
        return []

    def close(self) -> None:
        """End the watch; nothing is under way.

        Raises
        ------
        TransportError
            As `receive`.
        """
        if self._patrol is not None:
            self._patrol.end()
        self._check()
