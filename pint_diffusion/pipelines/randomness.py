"""Generators of one call: copies of the user's, and the process's own state kept apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

States = tuple[Tensor, ...]
"""States of all generators of a call."""


class Randomness:
    """What a call draws from: copies of the generators that it was given, and the global ones.

    The global generators, of the CPU and of the call's GPU, belong to the call `inside` and to the
    process outside. Nobody else's numbers change before `commit`.

    Parameters
    ----------
    given : torch.Generator, list of torch.Generator or None
        The user's generators.
    device : torch.device
        Where the call computes.
    """

    def __init__(self, given: Any, device: torch.device) -> None:
        self._given = given if isinstance(given, list | tuple) else [given]
        self._given = [one for one in self._given if isinstance(one, torch.Generator)]
        own = {id(one): _clone(one) for one in self._given}
        self.copies = [own[id(one)] for one in self._given]
        """The copies, in the order of the user's generators; one that stands twice is one."""
        self._global = [torch.default_generator]
        if device.type == "cuda":
            torch.cuda.init()
            index = torch.cuda.current_device() if device.index is None else device.index
            self._global.append(torch.cuda.default_generators[index])
        self._inner: States = _states(self._global)

    def replaced(self, given: Any) -> Any:
        """Return what to give to the call instead of the user's generators."""
        if isinstance(given, list | tuple):
            copies = iter(self.copies)
            return [next(copies) if isinstance(one, torch.Generator) else one for one in given]
        return self.copies[0] if self.copies else given

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let the global generators be the call's."""
        outer = _states(self._global)
        _set(self._global, self._inner)
        try:
            yield
        finally:
            self._inner = _states(self._global)
            _set(self._global, outer)

    def states(self) -> States:
        """Return the states of all generators; called inside."""
        return _states([*self.copies, *self._global])

    def restore(self, states: States) -> None:
        """Bring all generators into a state; called inside."""
        _set([*self.copies, *self._global], states)

    def commit(self) -> None:
        """Leave the user's generators and the global ones where the call has left its own."""
        for one, copy in zip(self._given, self.copies, strict=True):
            one.set_state(copy.get_state())
        _set(self._global, self._inner)


def _clone(generator: torch.Generator) -> torch.Generator:
    new = torch.Generator(generator.device)
    new.set_state(generator.get_state())
    return new


def _states(generators: list[torch.Generator]) -> States:
    return tuple(one.get_state() for one in generators)


def _set(generators: list[torch.Generator], states: States) -> None:
    for one, state in zip(generators, states, strict=True):
        one.set_state(state)
