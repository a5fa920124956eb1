"""One turn of a pipeline's loop: what it is to do, and what came of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from pint_diffusion.pipelines.levels import Coefficients
from pint_diffusion.pipelines.randomness import States
from pint_diffusion.pipelines.state import State


class Seen(NamedTuple):
    """What a step of the scheduler was given.

    Attributes
    ----------
    model_output : Tensor
        What the networks have said, guidance included.
    timestep : Tensor or float
        Timestep of the step.
    sample : Tensor
        State that was evaluated, as the scheduler keeps it.
    """

    model_output: Tensor
    timestep: Any
    sample: Tensor


@dataclass
class Visit:
    """One turn of the loop.

    Attributes
    ----------
    i : int
        Number of the body.
    dummy : bool
        Networks return zeros, where the shape of what they return is known.
    given : State, optional
        What the steps return, instead of what they would make.
    said : sequence of Tensor, optional
        What each step takes the networks to have said.
    returned, attributes, seen : list
        What each step has returned, the scheduler's attributes after it, and what it was given.
    networks : list of str
        Components that were called.
    levels : list
        For each step the levels at which it begins and ends, if the scheduler tells them.
    random : tuple of Tensor
        States of the generators after the last step.
    """

    i: int
    dummy: bool = False
    given: State | None = None
    said: Sequence[Tensor] | None = None
    returned: list[Any] = field(default_factory=list)
    attributes: list[dict[str, Any]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)
    levels: list[list[Coefficients | None]] = field(default_factory=list)
    random: States = ()

    @property
    def after(self) -> State:
        """The state that the body has left."""
        return State(tuple(self.returned), tuple(self.attributes))


@dataclass(frozen=True)
class Body:
    """What is known of body i beforehand.

    Attributes
    ----------
    networks : tuple of str
        Components that it calls, in order.
    after : State
        Form of the state after it: only of body 0 the numbers in its tensors mean anything.
    random : tuple of Tensor
        States of the generators after its last step.
    here, there : Coefficients or None
        Levels at which its first step begins and ends, if the scheduler tells them.
    """

    networks: tuple[str, ...]
    after: State
    random: States
    here: Coefficients | None
    there: Coefficients | None


class Turns:
    """An iterator over timesteps that knows the numbers of its turns."""

    def __init__(self, turns: Iterator[tuple[int, Tensor]]) -> None:
        self.numbered = turns

    def __iter__(self) -> Iterator[Tensor]:
        return (t for _, t in self.numbered)


class Arguments:
    """The arguments of one call of a step, by name."""

    def __init__(self, step: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = list(args), dict(kwargs)
        self._names = _names(step.func)

    def __getitem__(self, name: str) -> Any:
        at = self._names.index(name) if name in self._names else len(self.args)
        return self.args[at] if at < len(self.args) else self.kwargs.get(name)

    def __setitem__(self, name: str, value: Any) -> None:
        at = self._names.index(name) if name in self._names else len(self.args)
        if at < len(self.args):
            self.args[at] = value
        else:
            self.kwargs[name] = value

    @property
    def seen(self) -> Seen:
        """What the step is given."""
        return Seen(*map(self.__getitem__, Seen._fields))


FIRST = ("model_output", "timestep", "sample")
"""Names of the first arguments of a step."""


@lru_cache
def _names(step: Any) -> tuple[str, ...]:
    names = tuple(inspect.signature(step).parameters)[1:]
    return names if "model_output" in names else FIRST
