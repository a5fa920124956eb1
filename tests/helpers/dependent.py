"""Networks whose answer to a row depends on more than the row; and networks with two modes.

Used as ``path/to/dependent.py:factory`` too.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import batch_norm, dropout

from helpers.networks import Contraction, rank


class Made(Contraction):
    """A network of one function, of (x, t, the number of the call)."""

    def __init__(self, answer, shape=(1, 4, 4)):
        super().__init__()
        self.answer, self.shape = answer, shape

    def __call__(self, x, t, alpha_bar):
        self.calls += 1
        return self.answer(x, t, self.calls)


def smooth(x, t):
    """An answer as it should be: a smooth function of the row and its level."""
    return torch.tanh(2 * x) * (1 + t.view(-1, *[1] * (x.ndim - 1)) / 1000)


def numbers(x):
    """Number of each row."""
    return torch.arange(len(x), device=x.device).view(-1, *[1] * (x.ndim - 1))


def same_noise(x):
    """Noise of the same seed in every call."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)


BESIDE, PLACE, TIME = "when other rows stand beside it", "at another place", "each time"
DEPENDENT = {
    "batchnorm": (lambda x, t, c: batch_norm(smooth(x, t), None, None, training=True), BESIDE),
    "mean": (lambda x, t, c: smooth(x, t) - 0.1 * smooth(x, t).mean(dim=0), BESIDE),
    "norm": (lambda x, t, c: smooth(x, t) / smooth(x, t).norm(), BESIDE),
    "level": (lambda x, t, c: smooth(x, t[:1].expand(len(x))), BESIDE),
    "numbered": (lambda x, t, c: smooth(x, t) + 0.05 * numbers(x), PLACE),
    "same_noise": (lambda x, t, c: smooth(x, t) + 0.1 * same_noise(x), PLACE),
    "dropout": (lambda x, t, c: dropout(smooth(x, t), 0.1), TIME),
    "noisy": (lambda x, t, c: smooth(x, t) + 0.01 * torch.randn_like(x), TIME),
    "counting": (lambda x, t, c: smooth(x, t) * (1 + 0.01 * c), TIME),
    "counted": (lambda x, t, c: smooth(x, t) + 0.3 * math.log2(len(x)), "rows than among"),
}
"""What a network answers, and the words with which it is refused."""


def factory_of(name):
    return lambda device, dtype: Made(DEPENDENT[name][0])


batchnorm, mean, numbered, noisy = map(factory_of, ("batchnorm", "mean", "numbered", "noisy"))


class Layers(nn.Module):
    """Layers with two modes."""

    def __init__(self, width=1):
        super().__init__()
        conv = nn.Conv2d(width, 4, 3, padding=1)
        self.inside = nn.Sequential(
            conv, nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.2), nn.Conv2d(4, width, 1)
        )

    def forward(self, x, t):
        return self.inside(x) * (1 + t / 1000).view(-1, 1, 1, 1).to(x.dtype)


class Holds:
    """A network with layers somewhere in it."""

    shape = (1, 4, 4)
    prediction = "sample"
    data_range = (-1.0, 1.0)
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

    def __init__(self, **held):
        vars(self).update(held)

    def __call__(self, x, t, alpha_bar):
        return self.call(x, t)


def seeded(seed=0):
    torch.manual_seed(seed)
    return Layers()


def in_training(device, dtype):
    """In training mode, as modules are made."""
    net = seeded().to(device, dtype)
    return Holds(call=net)


def in_evaluation(device, dtype):
    return Holds(call=seeded().to(device, dtype).eval())


def on_rank_2(device, dtype):
    """Other weights on rank 2, as of another file or of no seed."""
    return Holds(call=seeded(seed=1 if rank() == 2 else 0).to(device, dtype).eval())


def other_code(device, dtype):
    """Other answers on rank 2, which no weights explain."""
    more = 0.2 if rank() == 2 else 0.0
    return Made(lambda x, t, c: smooth(x, t) + more)
