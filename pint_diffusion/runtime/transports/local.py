"""The transport of a run in one process."""

from __future__ import annotations

from collections.abc import Sequence

from pint_diffusion.runtime.transports.base import Message


class LocalTransport:
    """Moves nothing: one process makes and reads every value."""

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
        """Nothing is under way."""
