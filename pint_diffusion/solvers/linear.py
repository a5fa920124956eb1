"""What a solver does to a state by itself: its linear response, found by trying it on numbers.

A network that sees nothing but noise (x0 = 0, eps = x / s) makes a step x' = A x + C xi. A trial
walk with it tells the weights by which the noises of fine steps add up in one coarse step, and
whether the solver can walk the grid at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf, isfinite

import torch
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid import Level, TimeGrid
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.solvers.propagator import Propagator
from pint_diffusion.solvers.solver import Past


def try_walk(propagator: Propagator, kind: str) -> tuple[int, ...]:
    """Walk the grid once with a network that sees nothing.

    Parameters
    ----------
    propagator : Propagator
        What is tried.
    kind : str
        What it is called in an error message, "fine" or "coarse".

    Returns
    -------
    tuple of int, length M
        Evaluations in each slice.

    Raises
    ------
    InputError
        If a step leaves the schedule or does not give finite numbers.
    """
    x = torch.ones(1, 1, dtype=torch.float64)
    past: Past = ()
    still = replace(propagator, noise=lambda i: torch.zeros_like(x))
    counts = []
    for i in range(propagator.grid.steps):
        if i in propagator.grid.bounds and not propagator.carry:
            past = ()
        network = BlindNetwork()
        sigma = propagator.grid.levels[i].sigma
        reason = "numbers overflow: choose other options"
        try:
            x, past = still.replay(network, x, past, i)
            failed = not isfinite(float(x))
        except InputError as error:
            failed, reason = True, str(error)
        except (ArithmeticError, ValueError):
            failed = True
        if failed:
            if propagator.grid.levels[0].sigma == inf:
                reason = (
                    "the grid starts at pure noise, where sigma is infinite: give a grid in sigma, "
                    "as `spacing` karras `sigma_max` 100, or take another solver, as flow_euler"
                )
            raise InputError(
                f"the {kind} solver {propagator.name} can't make step {i}, from "
                f"sigma = {sigma:g}: {reason}"
            )
        counts.append(network.calls)
    return tuple(sum(counts[first:end]) for first, end in pairwise(propagator.grid.bounds))


def most_evaluations(propagator: Propagator) -> int:
    """Return the evaluations of the step that takes most; a first one may take more than others."""
    grid = propagator.grid
    alone = TimeGrid(grid.levels, tuple(range(grid.steps + 1)))
    return max(try_walk(replace(propagator, grid=alone), "fine"))


def noise_weights(propagator: Propagator, steps: Sequence[int]) -> list[float]:
    """Return the weights of the noises of successive one-step solver ``steps`` at their end.

    With x0 frozen, x_end = (product of A_j) x + sum_i w_i xi_i, w_i = C_i (product of A_j, j > i).
    """
    weights = []
    after, blind = 1.0, BlindNetwork()
    zero, one = (torch.full((1, 1), value, dtype=torch.float64) for value in (0.0, 1.0))
    for i in reversed(steps):
        response, _ = replace(propagator, noise=lambda i: one).replay(blind, zero, (), i)
        growth, _ = replace(propagator, noise=lambda i: zero).replay(blind, one, (), i)
        weights.append(after * float(response))
        after *= float(growth)
    return weights[::-1]


class BlindNetwork:
    """Sees x0 = 0 in every state, and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Count, and see the noise."""
        self.calls += 1
        return Prediction(0 * x, x / level.s, 0 * x)
