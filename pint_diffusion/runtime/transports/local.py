"""The transport of a run in one process."""

from __future__ import annotations

from collections.abc import Sequence

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
        self._patrol: Patrol | None = None
        if overdue is not None and on_lost is not None:
            self._patrol = Patrol(lambda passed: told(overdue, passed, on_lost), overdue.period)

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
        """
        if timeout != 0:
            raise RuntimeError("every coroutine awaits a value that nobody makes")
        return []

    def close(self) -> None:
        """End the watch; nothing is under way."""
        if self._patrol is not None:
            self._patrol.end()


def told(overdue: Overdue, passed: float, on_lost: OnLost) -> bool:
    """Tell of a network call that takes too long; return whether there is one."""
    cause = overdue.look(passed)
    if cause is not None:
        on_lost(cause, 0)
    return cause is not None
