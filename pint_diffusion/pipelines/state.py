"""What one step of a pipeline's loop leaves for the next, and what changes in a scheduler."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pint_diffusion.pipelines.trees import copied, leaves, mapped

ABSENT = "no such attribute"
"""Stands for the value of an attribute that is not there."""

KEPT = frozenset({"_internal_dict"})
"""Attributes of a scheduler that are its configuration."""


@dataclass(frozen=True)
class State:
    """What body i of a loop leaves for body i + 1.

    Attributes
    ----------
    returned : tuple
        What `scheduler.step` returned, for each time that the body called it.
    attributes : tuple of dict
        Attributes of the scheduler after each of these calls, of those that change in the walk.
    """

    returned: tuple[Any, ...]
    attributes: tuple[dict[str, Any], ...]

    @property
    def tensors(self) -> list[Tensor]:
        """Tensors that depend on the samples; all else is a function of the body's number.

        What a step returns depends on them. Tables and factors of a scheduler have one dimension or
        none, and what it remembers of samples has more.
        """
        remembered = leaves(self.attributes)
        return [*leaves(self.returned), *(one for one in remembered if one.ndim > 1)]

    def holding(self, tensors: Sequence[Tensor]) -> State:
        """Return a state of the same form with other `tensors`."""
        new = iter(tensors)
        returned = mapped(lambda _: next(new), self.returned)
        attributes = mapped(lambda one: next(new) if one.ndim > 1 else one, self.attributes)
        return replace(self, returned=returned, attributes=attributes)


class Changes:
    """Finds out which attributes of a scheduler change while it walks.

    Parameters
    ----------
    scheduler : object
        As it is before the first step.

    Attributes
    ----------
    names : set of str
        Attributes that have changed so far.
    """

    def __init__(self, scheduler: Any) -> None:
        now = {name: value for name, value in scheduler.__dict__.items() if name not in KEPT}
        self.names: set[str] = set()
        self._before = {name: copied(value) for name, value in now.items()}
        self._marks = {name: _mark(value) for name, value in now.items()}
        self._held = leaves(now)  # while they live, no other tensor has their mark

    def look(self, scheduler: Any) -> None:
        """Take note of the attributes that are not as they were."""
        now = scheduler.__dict__
        for name in (now.keys() | self._marks.keys()) - self.names - KEPT:
            if name not in now or _mark(now[name]) != self._marks.get(name, ABSENT):
                self.names.add(name)

    def filled(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """Return attributes with those that had not changed yet, in the order of `read`."""
        known = {**self._before, **attributes}
        return {name: known.get(name, ABSENT) for name in sorted(self.names)}


def unplain(attributes: dict[str, Any]) -> str | None:
    """Return the name of an attribute that is more than numbers, texts and tensors, or None."""
    return next((name for name, value in attributes.items() if not _plain(value)), None)


def can_begin(scheduler: Any, attributes: dict[str, Any], i: int) -> bool:
    """Return whether a scheduler can begin at body ``i`` without a history.

    One of second order begins at the first of two evaluations, and one that plans its orders where
    the order is 1. One that counts its steps begins at its first step alone.

    Parameters
    ----------
    scheduler : object
        The scheduler.
    attributes : dict
        What it has after body i - 1, of what changes.
    i : int
        Number of the body.
    """
    if getattr(scheduler, "order", 1) > 1 and attributes.get("sample") is not None:
        return False
    orders = getattr(scheduler, "order_list", None)
    return "counter" not in attributes and not (orders and orders[i] != 1)


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return isinstance(value, Tensor | int | float | str | torch.dtype | torch.device | None)


def read(scheduler: Any, names: set[str]) -> dict[str, Any]:
    """Return copies of some attributes of a scheduler, in an order that all ranks have."""
    now = scheduler.__dict__
    return {name: copied(now.get(name, ABSENT)) for name in sorted(names)}


def write(scheduler: Any, attributes: dict[str, Any]) -> None:
    """Give copies of attributes to a scheduler."""
    now = scheduler.__dict__
    for name, value in attributes.items():
        if value is ABSENT:
            now.pop(name, None)
        else:
            now[name] = copied(value)


def _mark(value: Any) -> Hashable:
    """Describe a value so that another value, or the same one changed in place, differs."""
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, dict):
        return tuple((name, _mark(one)) for name, one in value.items())
    if isinstance(value, list | tuple):
        return tuple(_mark(one) for one in value)
    if isinstance(value, int | float | str | None):
        return value
    return id(value)
