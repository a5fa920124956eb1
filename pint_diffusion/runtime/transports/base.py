"""Transports only move messages; this file has their protocol and the one for a single process."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from torch import Tensor

from pint_diffusion.runtime.requests import Clock, Key


class Control(IntEnum):
    """Messages of ranks to one another, told apart by the place of a cells index."""

    STOP = -1
    """The run is decided; everything under way is speculation beyond the answer."""
    FAILURE = -2
    """The sender can't go on; its error is told once the messages are drained."""
    INTERRUPT = -3
    """The sender was asked to end the run."""
    ALIVE = -4
    """The sender's communication thread runs; n and k are seconds and ms of its longest call."""
    WRITE = -5
    """Iteration k is to be written by every rank."""
    PASS = -6
    """Iteration k is not to be written."""
    ANSWER = -7
    """The answer of iteration k, for those who watch on other ranks; has a value."""


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


class Transport(Protocol):
    """Moves messages between the ranks of a run."""

    def send(self, to: int, message: Message) -> None:
        """Hand a message over; returns at once, and it leaves while the rank computes."""
        ...

    def receive(self, timeout: float | None) -> list[Message]:
        """Return what has arrived, waiting up to ``timeout`` seconds (None: for ever) for it."""
        ...

    def close(self) -> None:
        """Deliver or take in every message under way; all ranks call it once."""
        ...


class LocalTransport:
    """One process owns every slice: there is nobody to send to."""

    def send(self, to: int, message: Message) -> None:
        """Refuse: every value is made and read in this process."""
        raise RuntimeError(f"a message to rank {to} in a run of one process: {message.key}")

    def receive(self, timeout: float | None) -> list[Message]:
        """Nothing ever arrives; to wait for it would be for ever."""
        if timeout != 0:
            raise RuntimeError("every coroutine awaits a value that nobody makes")
        return []

    def close(self) -> None:
        """Nothing is under way."""
