"""What coroutines await: an evaluation, a value that somebody makes, or what the outputs say."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.numerics.prediction import Prediction


class Key(NamedTuple):
    """Name of a value: which cells, slice n, iteration k."""

    cells: int
    n: int
    k: int


class Clock(NamedTuple):
    """Length of the longest chain that led to a value.

    Attributes
    ----------
    deep : int
        In evaluations, through data dependence alone: the same on any rank count.
    calls : int
        In network calls, where a call also waits for the one before it on its rank.
    """

    deep: int = 0
    calls: int = 0

    def join(self, other: Clock) -> Clock:
        """Clock of something that needs both."""
        return Clock(max(self.deep, other.deep), max(self.calls, other.calls))


class EvaluateRequest:
    """One pending evaluation of the states ``x`` (S, *shape), each at its level; await it.

    Of pending ones that with the least ``order`` is made first: the oldest iteration, and within it
    what other slices wait for before the walks inside slices.
    """

    __slots__ = ("ask", "levels", "meet", "order", "x")

    def __init__(self, ask: Ask, x: Tensor, levels: Sequence[Level]) -> None:
        self.ask = ask
        self.order = ask.k, ask.kind == "fine", ask.n
        self.x = x
        self.levels = levels
        at, value = ask.meet or (None, None)
        self.meet = value if at == levels[0] else None

    def __await__(self) -> Generator[EvaluateRequest, Prediction, Prediction]:
        return (yield self)


class Together:
    """Evaluations that do not wait for one another; await it for what is seen in each, in order.

    They share network calls as other pending evaluations do.
    """

    __slots__ = ("requests",)

    def __init__(self, requests: Sequence[EvaluateRequest]) -> None:
        self.requests = requests

    def __await__(self) -> Generator[Together, list[Prediction], list[Prediction]]:
        return (yield self)


@dataclass(frozen=True)
class Ask:
    """Evaluations for one solve; call it with states and a level and await the result.

    Attributes
    ----------
    kind : {"fine", "coarse", "shared"}
        What the evaluations are for.
    n, k : int
        Column and iteration they belong to; older iterations are served first.
    network : int
        Which of the run's networks is evaluated; a call is of one network.
    meet : (Level, TakeRequest), optional
        The evaluation at this level had better share a network call with the one that the value
        sets off, if that value is about to arrive from another rank.
    place : str, optional
        What error messages call n and k, if not slice and iteration.
    needed_by : int, optional
        First iteration whose answer, or whose checkpoint, can't be there without them; k if not
        given. If one fails and the run ends before that iteration, it was speculation.
    """

    kind: str
    n: int
    k: int
    network: int = 0
    meet: tuple[Level, TakeRequest] | None = None
    place: str | None = None
    needed_by: int | None = None

    @property
    def needed(self) -> int:
        """First iteration that needs the evaluations."""
        return self.k if self.needed_by is None else self.needed_by

    def __call__(self, x: Tensor, level: Level) -> EvaluateRequest:
        """Ask for what the network sees in states ``x`` (S, *shape) at ``level``."""
        return EvaluateRequest(self, x, [level] * len(x))

    def rows(self, x: Tensor, levels: Sequence[Level]) -> EvaluateRequest:
        """Ask for what the network sees in states ``x`` (S, *shape), each at its own level."""
        return EvaluateRequest(self, x, levels)


class TakeRequest:
    """A value that somebody makes, maybe on another rank; await it to get it."""

    __slots__ = ("key", "remote")

    def __init__(self, key: Key, remote: bool) -> None:
        self.key = key
        self.remote = remote

    def __await__(self) -> Generator[TakeRequest, Tensor | None, Tensor | None]:
        return (yield self)


class AnswerRequest:
    """The answer of iteration k, for the outputs; await it to learn whether the run ends here."""

    __slots__ = ("answer", "change", "k")

    def __init__(self, k: int, answer: Tensor, change: NDArray[np.float64] | None) -> None:
        self.k = k
        self.answer = answer
        self.change = change

    def __await__(self) -> Generator[AnswerRequest, bool, bool]:
        return (yield self)


class Layout(NamedTuple):
    """Shape, dtype and home of the values of some cells."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Cells:
    """Values of one name, by slice n and iteration k: ``x = await u[n, k]``, ``u[n, k] = x``.

    Each value is written once, on one rank, and awaited a known number of times on known ranks;
    messages and memory follow from that. None is a value too: "as in the iteration before".

    Attributes
    ----------
    index : int
        Which cells these are, the same on every rank.
    layout : Layout
        Of every value.
    made_on : callable
        n -> the rank that writes it.
    read_on : callable
        n -> the ranks that await it, a rank once for every time that it does.
    kept_on : callable, optional
        n -> the reading rank that records it in its file.
    rank : int
        This rank.
    put : callable
        Takes (key, value) when a value is made.
    """

    index: int
    layout: Layout
    made_on: Callable[[int], int]
    read_on: Callable[[int], list[int]]
    kept_on: Callable[[int], int] | None
    rank: int
    put: Callable[[Cells, Key, Tensor | None], Any]

    def __getitem__(self, where: tuple[int, int]) -> TakeRequest:
        return TakeRequest(Key(self.index, *where), self.made_on(where[0]) != self.rank)

    def __setitem__(self, where: tuple[int, int], value: Tensor | None) -> None:
        self.put(self, Key(self.index, *where), value)
