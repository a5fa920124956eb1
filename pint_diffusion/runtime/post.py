"""What a rank says to the others beside the values that they await."""

from __future__ import annotations

from torch import Tensor

from pint_diffusion.runtime.requests import Clock, Key
from pint_diffusion.runtime.transports.base import Control, Message, Transport


class Post:
    """Sends control messages.

    Parameters
    ----------
    rank, size : int
        This rank and how many there are.
    transport : Transport
        Moves them.
    """

    def __init__(self, rank: int, size: int, transport: Transport) -> None:
        self.rank = rank
        self._others = [other for other in range(size) if other != rank]
        self._transport = transport

    def tell_all(
        self, control: Control, k: int = 0, data: Tensor | None = None, of: int | None = None
    ) -> None:
        """Tell every other rank something, of this one if ``of`` names none."""
        n = self.rank if of is None else of
        self._transport.send(self._others, Message(Key(control, n, k), Clock(), data))

    def tell_first(self, control: Control, k: int) -> None:
        """Tell rank 0 something of this one."""
        self._transport.send([0], Message(Key(control, self.rank, k), Clock(), None))
