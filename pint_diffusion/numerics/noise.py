"""Noise as a function of (seed, sample, step): the order of the draws does not matter.

Each sample has a counter-based generator of its own (Philox, with seed and sample as its key). The
last word of its counter is 0 for the initial state and i + 1 for step i, so no two draws overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod

import numpy as np
import torch
from torch import Tensor

AHEAD = 2
"""Steps whose noise is drawn before it is asked for."""

LARGE = 2**15
"""Values of a step's noise from which on that pays: fewer take less time than a thread's turn."""


def initial_noise(
    seed: int, samples: Iterable[int], shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Draw the pure-noise states u_0 of some samples.

    Every rank draws the same noise for sample 5, whatever else it draws.

    Parameters
    ----------
    seed : int
        Seed of the run, 0 to 2**64 - 1.
    samples : iterable of int
        Numbers of the S samples.
    shape : tuple of int
        Shape of one sample.
    dtype : torch.dtype
        Type of the result; the draws are float64 and rounded once.

    Returns
    -------
    Tensor, shape (S, *shape)
        Independent standard normal values, on the CPU.
    """
    return _draw(seed, samples, shape, 0).to(dtype)


@dataclass(frozen=True)
class StepNoise:
    """The noise of the fine steps of a stochastic solver: a function of the step.

    Walks ask for one step after another. So the noise of the next steps is drawn by a thread of its
    own, while the network is evaluated.

    Attributes
    ----------
    seed : int
        Seed of the run.
    samples : int
        Number S of samples.
    shape : tuple of int
        Shape of one sample.
    dtype : torch.dtype
        Type of the noise; the draws are float64 on the CPU and rounded once.
    device : torch.device
        Device of the noise.
    """

    seed: int
    samples: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> int:
        """Bytes of the noise of one step."""
        return self.samples * prod(self.shape) * self.dtype.itemsize

    def __call__(self, i: int) -> Tensor:
        """Return the noise of fine step ``i``, independent standard normal values."""
        large = self.samples * prod(self.shape) >= LARGE
        return (self._ahead(i) if large else self._draw(i)).to(self.device)

    @cached_property
    def _draw(self) -> Callable[[int], Tensor]:
        return partial(_draw_step, self.seed, self.samples, self.shape, self.dtype)

    @cached_property
    def _ahead(self) -> DrawnAhead:
        return DrawnAhead(self._draw)

    def summed(self, steps: Sequence[int], weights: Sequence[float]) -> Tensor:
        """Return the weighted sum of the noise of some steps, (S, *shape); zero for none."""
        total = torch.zeros((self.samples, *self.shape), dtype=torch.float64)
        for i, weight in zip(steps, weights, strict=True):
            total += weight * _draw(self.seed, range(self.samples), self.shape, i + 1)
        return total.to(self.dtype).to(self.device)


class DrawnAhead:
    """Noise of steps, that of the next ones drawn by a thread; numpy draws without Python's lock.

    The thread ends with this object.

    Parameters
    ----------
    draw : callable
        Step i -> its noise.
    """

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        self._draw = draw
        self._thread = ThreadPoolExecutor(1, "noise")
        self._drawn: dict[int, Future[Tensor]] = {}

    def __call__(self, i: int) -> Tensor:
        """Return the noise of step ``i``, and begin with that of the next ones."""
        drawn = self._drawn.pop(i, None)
        for j in range(i + 1, i + 1 + AHEAD):
            if j not in self._drawn:
                self._drawn[j] = self._thread.submit(self._draw, j)
        while len(self._drawn) > 2 * AHEAD:  # nobody walks there any more
            self._drawn.pop(next(iter(self._drawn))).cancel()
        return self._draw(i) if drawn is None else drawn.result()


def _draw_step(
    seed: int, samples: int, shape: tuple[int, ...], dtype: torch.dtype, i: int
) -> Tensor:
    return _draw(seed, range(samples), shape, i + 1).to(dtype)


def _draw(seed: int, samples: Iterable[int], shape: tuple[int, ...], word: int) -> Tensor:
    counter = np.array([0, 0, 0, word], dtype=np.uint64)
    rows = [
        np.random.Generator(
            np.random.Philox(key=np.array([seed, s], dtype=np.uint64), counter=counter)
        ).standard_normal(shape)
        for s in samples
    ]
    return torch.from_numpy(np.stack(rows))
