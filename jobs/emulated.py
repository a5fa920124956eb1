r"""A network that takes its time and no cores: shows a real pipeline where there are no GPUs.

    mpiexec -n 8 pint-diffusion sample --model jobs/emulated.py:factory --steps 64 --slices 8 \
        --placement slice --verify

It is the closed-form network of a mixture of Gaussians over 8 x 8 pictures that sleeps after every
call until EMULATED_MS milliseconds (100 if not set) have passed, however many rows the call has: a
GPU whose batches are free. Eight such ranks run side by side on two cores.
"""

from __future__ import annotations

import os
import time

import numpy as np
import torch

from pint_diffusion.models.mixture import GaussianMixture


class Emulated(GaussianMixture):
    """The mixture, slowed down."""

    seconds = float(os.environ.get("EMULATED_MS", "100")) / 1000

    def __call__(self, x, t, alpha_bar):
        """Evaluate, then sleep what is left of the emulated time."""
        start = time.perf_counter()
        out = super().__call__(x, t, alpha_bar)
        time.sleep(max(0.0, self.seconds - (time.perf_counter() - start)))
        return out


def factory(device: torch.device, dtype: torch.dtype) -> Emulated:
    """Make ten pictures of a bright square each, blurred by a little variance."""
    row, column = np.mgrid[0:8, 0:8]
    corners = [(r, c) for r in (0, 2, 4) for c in (0, 2, 4)] + [(3, 3)]
    squares = [(row >= r) & (row < r + 4) & (column >= c) & (column < c + 4) for r, c in corners]
    means = np.where(np.stack(squares), 0.8, -0.8)[:, None]
    return Emulated(means, np.full(10, 0.01), np.full(10, 0.1), device=device, dtype=dtype)
