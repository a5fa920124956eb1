"""What a run asks of a device: ATen dispatches, copies to it and reads from it, counted on the CPU.

A dispatch is a kernel launch on a GPU, a few at most. A copy to the device is a call that would
move host memory there, a read is a call that would wait for the device: both are counted where the
Python code makes them, so that the counts are the same without a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.flat import settings_of
from helpers.runs import solve
from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.runtime.world import LocalWorld

READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__array__")


@dataclass(frozen=True)
class Counts:
    """Counts, or their mean."""

    dispatches: float
    copies: float
    reads: float

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            self.dispatches - other.dispatches,
            self.copies - other.copies,
            self.reads - other.reads,
        )

    def __truediv__(self, count: float) -> Counts:
        return Counts(self.dispatches / count, self.copies / count, self.reads / count)


class Counter:
    """Counts while it is entered; `now` tells what there was so far."""

    def __init__(self) -> None:
        self._dispatched, self._crossed = _Dispatches(), _Crossings()

    def __enter__(self) -> Counter:
        self._dispatched.__enter__()
        self._crossed.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._crossed.__exit__(*error)
        self._dispatched.__exit__(*error)

    def now(self) -> Counts:
        return Counts(self._dispatched.count, self._crossed.copies, self._crossed.reads)


class _Dispatches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


class _Crossings(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.copies = self.reads = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in READS:
            self.reads += 1
        elif name in ("to", "cuda", "tensor", "as_tensor"):
            to = [*args[1:], *kwargs.values()]
            self.copies += name == "cuda" or any(isinstance(at, torch.device) for at in to)
        elif name in ("__getitem__", "__setitem__"):
            at = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.copies += any(isinstance(one, (list, np.ndarray)) for one in at)
        return func(*args, **kwargs)


class Quick:
    """A network of two dispatches, whose samples do not all take the same number of rounds."""

    shape = (3, 8, 8)
    prediction = "sample"
    data_range = (-1.0, 1.0)
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

    def __call__(self, x, t, alpha_bar):
        return torch.tanh(3 * x)


class Uneven(Quick):
    """One of which samples take very different numbers of rounds."""

    def __call__(self, x, t, alpha_bar):
        mean = x.flatten(1).mean(1)
        return torch.tanh(30 * mean[:, None, None, None] * x)


def rounds_counted(network=Quick, **settings) -> list[Counts]:
    """Counts of every round of a run in one process, without those that fill tables."""
    plan = plan_of(settings_of(steps=64, **settings), LocalWorld(), network())
    seen = []
    with Counter() as counter:
        solve(plan, LocalWorld(), [lambda k, answer, change: seen.append(counter.now())])
    return [b - a for a, b in pairwise(seen)][2:]


def evaluation_counted(**settings) -> Counts:
    """Counts of a run in one process, for each of its evaluations."""
    plan = plan_of(settings_of(steps=64, **settings), LocalWorld(), Quick())
    with Counter() as counter:
        run = solve(plan, LocalWorld())
    return counter.now() / (run.evaluations + run.evaluations_wasted)
