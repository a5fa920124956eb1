"""The points of a window as rows: by slot and sample, as a network is called, and by grid point.

Steps are made point by point: samples whose windows begin at different points have rows at the
same one, and a step of a solver is made once for all of them, with one pair of levels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.numerics.levels import to_device
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.solvers import Propagator
from pint_diffusion.solvers.solver import Past

Ints = NDArray[np.int64]


class Group(NamedTuple):
    """Rows of one point i: where they are by point, and whose they are, in order."""

    i: int
    first: int
    end: int
    samples: Ints


@dataclass(frozen=True)
class Rows:
    """Which rows some slots have, n of them.

    Attributes
    ----------
    slots : tuple of int
        The slots.
    groups : list of Group
        The rows by point.
    order : array of int, shape (n,)
        Number, by slot and sample, of every row by point.
    places : array of int, shape (len(slots), S)
        Number by point of every row by slot and sample, n where a sample has no such point.
    straight : bool
        Both orders are one, and every sample has all points.
    """

    slots: tuple[int, ...]
    groups: list[Group]
    order: Ints
    places: Ints
    straight: bool

    @classmethod
    def of(cls, begin: Ints, length: Ints, slots: Sequence[int]) -> Rows:
        """Find the rows of windows of ``length`` points (S,) that begin at ``begin`` (S,)."""
        samples = len(begin)
        if len(slots) and (begin == begin[0]).all() and (length > slots[-1]).all():
            places, mine = np.arange(len(slots) * samples), np.arange(samples)
            groups = [
                Group(int(begin[0]) + j, at * samples, (at + 1) * samples, mine)
                for at, j in enumerate(slots)
            ]
            return cls(tuple(slots), groups, places, places.reshape(-1, samples), True)
        at = np.array(slots, dtype=np.int64)[:, None]
        point, there = (at + begin).ravel(), (at < length).ravel()
        order = np.lexsort((np.arange(len(point)) % samples, point))
        order = order[there[order]]
        n = len(order)
        places = np.full(point.shape, n)
        places[order] = np.arange(n)
        cuts = [0, *(np.flatnonzero(np.diff(point[order])) + 1), n]
        groups = [
            Group(int(point[order[first]]), int(first), int(end), order[first:end] % samples)
            for first, end in pairwise(cuts)
            if end > first
        ]
        return cls(tuple(slots), groups, order, places.reshape(-1, samples), False)

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Where a sample has no such point, (len(slots), S)."""
        return self.places == len(self.order)

    def asking(self, open_: Sequence[bool]) -> list[int]:
        """Return which slots, by their place among these, have a row in a group that is open."""
        if all(open_):
            return list(range(len(self.slots)))
        samples, found = self.places.shape[1], set()
        for group in (group for group, one in zip(self.groups, open_, strict=True) if one):
            found.update((self.order[group.first : group.end] // samples).tolist())
        return sorted(found)

    def level_list(self, levels: Sequence[Level], absent: Level) -> list[list[Level]]:
        """Spread the level of every group over the rows, by slot and sample."""
        by_point = [
            level
            for group, level in zip(self.groups, levels, strict=True)
            for _ in range(group.end - group.first)
        ]
        by_point.append(absent)
        return [[by_point[at] for at in row] for row in self.places.tolist()]


class Question:
    """An evaluation that a step awaits."""

    __slots__ = ("level", "x")

    def __init__(self, x: Tensor, level: Level) -> None:
        self.x = x
        self.level = level

    def __await__(self) -> Generator[Question, Prediction, Prediction]:
        return (yield self)


class Asked(NamedTuple):
    """What steps ask for at one stage.

    Attributes
    ----------
    x : Tensor, shape (n, *shape)
        States by point; where a step asks for no more, what it asked for last.
    levels : list of Level
        Of every group.
    open : list of bool
        Which groups ask.
    """

    x: Tensor
    levels: list[Level]
    open: list[bool]


Steps = Generator[Asked, Prediction, list[Tensor]]


def steps(walk: Propagator, rows: Rows, x: Tensor, past: Past) -> Steps:
    """Make a step from every row, stage by stage: yields what they ask for and is sent the answers.

    Parameters
    ----------
    walk : Propagator
        Makes the steps of all samples.
    rows : Rows
        The rows.
    x : Tensor, shape (n, *shape)
        States by point.
    past : tuple of Tensor, (n, *shape) each
        What the solver carries, zero where it carries less.

    Returns
    -------
    list of 1 + H Tensor, (n, *shape) each
        States after the steps and what is carried on, by point.
    """
    groups, history = rows.groups, walk.solver.history
    sizes = [group.end - group.first for group in groups]
    mine = replace(walk, noise=_noise_of(walk, groups)) if not rows.straight else walk
    parts = list(zip(*(one.split(sizes) for one in (x, *past)), strict=True))
    asked: list[Question | None] = [None] * len(groups)
    answers: list[Prediction | None] = [None] * len(groups)
    carried = [walk.carried_at(group.i) if history else 0 for group in groups]
    under_way = {
        g: mine.step(Question, part[0], part[1 : 1 + carried[g]], group.i)
        for g, (group, part) in enumerate(zip(groups, parts, strict=True))
    }
    after: list[tuple[Tensor, ...]] = [()] * len(groups)
    while True:
        for g, step in list(under_way.items()):
            try:
                asked[g] = step.send(answers[g])
            except StopIteration as done:
                x_after, past_after = done.value
                missing = [torch.zeros_like(x_after)] * (history - len(past_after))
                after[g] = (x_after, *past_after, *missing)
                del under_way[g]
        if not under_way:
            break
        states = [question.x for question in asked if question is not None]
        same = all(one is part[0] for one, part in zip(states, parts, strict=True))
        levels = [question.level for question in asked if question is not None]
        still = [g in under_way for g in range(len(groups))]
        seen = yield Asked(x if same else torch.cat(states), levels, still)
        split = [[None] * len(sizes) if one is None else one.split(sizes) for one in seen]
        answers = [Prediction(*one) for one in zip(*split, strict=True)]
    return [torch.cat(one) for one in zip(*after, strict=True)]


def _noise_of(walk: Propagator, groups: Iterable[Group]) -> Any:
    """Return the noise of the steps for the rows that make them."""
    samples = {group.i: group.samples for group in groups}

    def noise(i: int) -> Tensor:
        drawn, mine = walk.noise(i), samples[i % walk.grid.steps]
        if len(mine) == len(drawn):
            return drawn
        first, last = int(mine[0]), int(mine[-1])
        if last - first + 1 == len(mine):
            return drawn[first : last + 1]
        return drawn.index_select(0, to_device(torch.from_numpy(mine), drawn.device))

    return noise


@dataclass(frozen=True)
class Windows:
    """The windows of all samples, W points at most.

    Attributes
    ----------
    begin, length : array of int, shape (S,)
        First point and number of points.
    states : Tensor, shape (1 + H + E, W, S, *shape)
        x, the solver's history, and what the method keeps with them; NaN where there is no point.
    """

    begin: Ints
    length: Ints
    states: Tensor


@dataclass(frozen=True)
class Places:
    """Where everything is in a round, on the host and on the device.

    Attributes
    ----------
    mine, all : Rows
        Of the slots that this rank evaluates, and of all slots.
    points : Tensor of int, shape (L S,)
        Grid point of every slot and sample, N where there is none.
    mine_order, mine_places, all_order, all_places : Tensor of int, optional
        Their arrays, flat, if they are not straight.
    """

    mine: Rows
    all: Rows
    points: Tensor
    mine_order: Tensor | None = None
    mine_places: Tensor | None = None
    all_order: Tensor | None = None
    all_places: Tensor | None = None


def in_order(x: Tensor, dim: int, order: Tensor | None) -> Tensor:
    """Bring what is along a dimension into an order, if there is another one."""
    return x if order is None else x.index_select(dim, order)


def by_point(states: Tensor, order: Tensor | None) -> Tensor:
    """Bring states (P, L, S, *shape) into the order by point, (P, n, *shape)."""
    return in_order(states.flatten(1, 2), 1, order)


def by_slot(states: Tensor, rows: Rows, places: Tensor | None, absent: Tensor) -> Tensor:
    """Bring states (P, n, *shape) into the order by slot and sample, (P, L, S, *shape).

    ``absent``, (1, m, *shape), has what stands where there is no point.
    """
    if places is not None:
        absent = absent.expand(len(states), *absent.shape[1:])
        states = torch.cat([states, absent], dim=1).index_select(1, places)
    return states.unflatten(1, rows.places.shape)
