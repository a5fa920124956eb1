"""Noise as a function of (seed, sample, step): the order of the draws does not matter.

Each sample has a counter-based generator of its own (Philox, with seed and sample as its key). The
last word of its counter is 0 for the initial state and i + 1 for step i, so no two draws overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor


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
        """Return the noise of fine step ``i``, (S, *shape): independent standard normal values."""
        return self.summed([i], [1.0])

    def summed(self, steps: Sequence[int], weights: Sequence[float]) -> Tensor:
        """Return the weighted sum of the noise of some steps, (S, *shape); zero for none."""
        total = torch.zeros((self.samples, *self.shape), dtype=torch.float64)
        for i, weight in zip(steps, weights, strict=True):
            total += weight * _draw(self.seed, range(self.samples), self.shape, i + 1)
        return total.to(self.dtype).to(self.device)


def _draw(seed: int, samples: Iterable[int], shape: tuple[int, ...], word: int) -> Tensor:
    counter = np.array([0, 0, 0, word], dtype=np.uint64)
    rows = [
        np.random.Generator(
            np.random.Philox(key=np.array([seed, s], dtype=np.uint64), counter=counter)
        ).standard_normal(shape)
        for s in samples
    ]
    return torch.from_numpy(np.stack(rows))
