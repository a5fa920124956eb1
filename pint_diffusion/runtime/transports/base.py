"""What a transport is: it moves messages between the ranks of a run, and knows nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from torch import Tensor

from pint_diffusion.runtime.requests import Clock, Key, Layout


class Control(IntEnum):
    """Messages of ranks to one another, told apart by the place of a cells index."""

    STOP = -1
    """Iteration k has the answer; everything under way is speculation beyond it."""
    FAILURE = -2
    """The sender can't go on; its error is told once the messages are drained."""
    INTERRUPT = -3
    """The sender was asked to end the run."""
    ALIVE = -4
    """The sender's communication thread runs; see `Watchdog.sign`."""
    WRITE = -5
    """Iteration k is to be written by every rank."""
    PASS = -6
    """Iteration k is not to be written."""
    ANSWER = -7
    """The answer of iteration k, for those who watch on other ranks; has a value."""
    FAILED = -8
    """To rank 0: an evaluation of the sender has failed that iteration k and later ones need."""
    LOST = -9
    """The run can't go on, for a reason that is sent along; rank n is to say so to the user."""


@dataclass(frozen=True)
class Message:
    """One value on its way from the rank that made it to a rank that awaits it.

    Attributes
    ----------
    key : Key
        Which value; for a control message ``key.cells`` is a `Control`.
    clock : Clock
        Clock of the value.
    data : Tensor or None
        The value. As received it is a flat uint8 tensor on the host, to be viewed.
    """

    key: Key
    clock: Clock
    data: Tensor | None

    def value(self, layout: Layout) -> tuple[Tensor | None, Tensor | None]:
        """Return a value that has arrived, on the device of its layout and on the host."""
        if self.data is None:
            return None, None
        host = self.data.view(layout.dtype).view(layout.shape)
        return host.to(layout.device, non_blocking=True), host


def text_of(data: Tensor | None) -> bytes:
    """Return what was sent along with a control message, as it has arrived."""
    return b"" if data is None else data.numpy().tobytes()


class Transport(Protocol):
    """Moves messages between the ranks of a run."""

    def send(self, ranks: Sequence[int], message: Message) -> None:
        """Hand a message for other ranks over; it leaves while this rank computes.

        Its data must stay as it is if it is on a device, and may be changed at once on the host.
        """
        ...

    def receive(self, timeout: float | None) -> list[Message]:
        """Return what has arrived, waiting up to ``timeout`` seconds (None: for ever) for it.

        Raises
        ------
        TransportError
            If messages can no longer be moved, or if another rank has fallen silent.
        """
        ...

    def close(self) -> None:
        """Deliver or take in every message under way; all ranks call it once.

        Raises
        ------
        TransportError
            As `receive`.
        """
        ...
