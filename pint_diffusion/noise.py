"""Noise as a function of (seed, sample), never of the order in which it is asked for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def initial_noise(
    seed: int, samples: Iterable[int], shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Draw the pure-noise states u_0 of some samples.

    Each sample has a counter-based generator of its own (Philox, keyed by seed and sample), so
    the noise of sample 5 is the same whichever rank draws it and whatever else is drawn.

    Parameters
    ----------
    seed : int
        Seed of the run, 0 to 2**64 - 1.
    samples : iterable of int
        Numbers of the samples to draw, S of them.
    shape : tuple of int
        Shape of one sample.
    dtype : torch.dtype
        Drawn in float64, then rounded to this.

    Returns
    -------
    Tensor, shape (S, *shape)
        Independent standard normal values, on the CPU.
    """
    rows = [
        np.random.Generator(
            np.random.Philox(key=np.array([seed, s], dtype=np.uint64))
        ).standard_normal(shape)
        for s in samples
    ]
    return torch.from_numpy(np.stack(rows)).to(dtype)
