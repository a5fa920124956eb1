"""What a solver does to a state by itself: its linear response, found by trying it on numbers.

A network that sees nothing but noise (x0 = 0, eps = x / s) makes a step x' = A x + C xi. A trial
walk with it tells the weights by which the noises of fine steps add up in one coarse step, and
whether the solver can walk the grid at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isfinite

import torch
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid import Level
from pint_diffusion.models.denoiser import Prediction
from pint_diffusion.solvers.propagator import Propagator
from pint_diffusion.solvers.solver import Past


def try_walk(propagator: Propagator, name: str) -> None:
    """Walk the grid once with a network that sees nothing.

    Raises
    ------
    InputError
        If a step leaves the schedule or does not give finite numbers.
    """
    x = torch.ones(1, 1, dtype=torch.float64)
    past: Past = ()
    still = replace(propagator, noise=lambda i: torch.zeros_like(x))
    for i in range(propagator.grid.steps):
        here = propagator.grid.levels[i]
        try:
            x, past = _step(still, x, past, i)
        except (InputError, ArithmeticError, ValueError) as error:
            raise InputError(
                f"the solver {name} can't make step {i} from sigma = {here.sigma:g}: {error}"
            ) from None
        if not isfinite(float(x)):
            raise InputError(
                f"the solver {name} can't make step {i} from sigma = {here.sigma:g}: "
                + ("start the grid at a finite noise level" if here.sigma == inf else "overflow")
            )


def noise_weights(propagator: Propagator, steps: Sequence[int]) -> list[float]:
    """Return the weights of the noises of successive one-step solver ``steps`` at their end.

    With x0 frozen, x_end = (product of A_j) x + sum_i w_i xi_i, w_i = C_i (product of A_j, j > i).
    """
    weights = []
    after = 1.0
    zero, one = (torch.full((1, 1), value, dtype=torch.float64) for value in (0.0, 1.0))
    for i in reversed(steps):
        response, _ = _step(replace(propagator, noise=lambda i: one), zero, (), i)
        growth, _ = _step(replace(propagator, noise=lambda i: zero), one, (), i)
        weights.append(after * float(response))
        after *= float(growth)
    return weights[::-1]


def _step(propagator: Propagator, x: Tensor, past: Past, i: int) -> tuple[Tensor, Past]:
    walk = propagator.step(_blind, x, past, i)
    try:
        walk.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a step awaited something other than an evaluation")


async def _blind(x: Tensor, level: Level) -> Prediction:
    return Prediction(0 * x, x / level.s, 0 * x)
