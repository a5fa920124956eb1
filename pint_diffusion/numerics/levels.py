"""Noise levels as a device sees them: one table for a run, a row for each level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.grid.level import Level


class Columns(NamedTuple):
    """What is needed of the levels of R rows; one row stands for all of them if they agree.

    Attributes
    ----------
    t : Tensor, shape (R,)
        What the network is told.
    alpha_bar : Tensor, shape (R,)
        Squared signal coefficient, in float64.
    a, s : Tensor, shape (R, 1, ...)
        Signal and noise coefficient, as factors of states.
    """

    t: Tensor
    alpha_bar: Tensor
    a: Tensor
    s: Tensor

    def of_rows(self, rows: slice) -> Columns:
        """Return the columns of some rows."""
        return self if len(self.t) == 1 else Columns(*(column[rows] for column in self))


class LevelTable:
    """Columns of levels on a device. It computes those of a level once.

    Square roots are taken on the host, in float64. They are rounded to a state's dtype only where
    they are used: near the clean end 1 - alpha_bar would lose three digits in float32.

    Parameters
    ----------
    time : callable
        Level -> what the network is told.
    """

    def __init__(self, time: Callable[[Level], float]) -> None:
        self._time = time
        self._known: dict[Level, int] = {}
        self._rows = np.empty((0, 4))
        self._alone: dict[Level, Columns] = {}

    def __call__(self, levels: Sequence[Level], x: Tensor) -> Columns:
        """Return the columns of the ``levels`` of the rows of x (R, *shape).

        They come in one copy to the device. Rows of one level share a row, which stays there.
        """
        first = levels[0]
        if all(level is first or level == first for level in levels):
            if first not in self._alone:
                self._alone[first] = self._copied([first], x)
            return self._alone[first]
        return self._copied(levels, x)

    def _copied(self, levels: Sequence[Level], x: Tensor) -> Columns:
        known = self._known
        new = [level for level in dict.fromkeys(levels) if level not in known]
        if new:
            rows = [(self._time(level), level.alpha_bar, level.a, level.s) for level in new]
            known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
            self._rows = np.concatenate([self._rows, rows])
        packed = torch.from_numpy(self._rows[[known[level] for level in levels]].T.copy())
        t, alpha_bar, a, s = to_device(packed, x.device).unbind()
        return Columns(t.to(x.dtype), alpha_bar, as_column(a, x), as_column(s, x))


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to a device, without waiting for it."""
    if device.type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def as_column(values: Tensor, x: Tensor) -> Tensor:
    """Shape values (R,) as factors of the rows of x (R, *shape), in its dtype."""
    return values.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
