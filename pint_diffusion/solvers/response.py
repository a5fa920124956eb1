"""What a step makes of a state that moves: its linear response, found by trying it on numbers.

A step is linear in the state, in what the solver carries, and in the x0 and eps that the network
tells of the states it is asked for. One trial with a basis of all these as rows gives the
coefficients. While a state at a level (a, s) moves by dx, eps is taken to follow with a slope
kappa, and x0 such that x = a x0 + s eps holds:

    d eps = kappa dx,    d x0 = (1 - s kappa) / a dx.

So what a step of Q evaluations makes of a move is a polynomial in the slopes kappa_1 .. kappa_Q of
its evaluations, of first degree in each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pint_diffusion.grid import Level
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.solvers.linear import most_evaluations
from pint_diffusion.solvers.propagator import Propagator

Slope = Callable[[Level], float]
"""d eps / d x at a level, as it is taken to be."""


@dataclass(frozen=True)
class Responses:
    """Responses of the N steps of a walk whose states have 1 + H parts: x and what is carried.

    Attributes
    ----------
    levels : tuple of tuple of Level
        Of every step the levels at which it evaluates, Q at most.
    a, s : array, shape (N, Q)
        Signal and noise coefficients of these levels, 1 where there is none.
    moves : array, shape (N, 2**Q, Q + 1 + H, 1 + H)
        By how much the Q states that the network is asked for, and then the 1 + H parts of the
        state after the step, move with every part of the state before it: coefficients of the
        products of slopes, bit q of the second index telling whether kappa_q is in it.
    """

    levels: tuple[tuple[Level, ...], ...]
    a: NDArray[np.float64]
    s: NDArray[np.float64]
    moves: NDArray[np.float64]

    @property
    def stages(self) -> int:
        """Q."""
        return self.a.shape[1]

    @property
    def asked_parts(self) -> int:
        """Return how many leading parts of a state move what the network is asked for."""
        moved = np.abs(self.moves[:, :, : self.stages]).max(axis=(0, 1, 2))
        return 1 + int(moved.nonzero()[0].max(initial=0))

    def with_slope(self, slope: Slope) -> NDArray[np.float64]:
        """Return moves (N, Q + 1 + H, 1 + H) while eps follows with a slope known beforehand."""
        kappa = [
            [*(slope(level) for level in levels), *[0.0] * (self.stages - len(levels))]
            for levels in self.levels
        ]
        return at_slopes(self.moves, np.array(kappa))

    @classmethod
    def of(cls, walk: Propagator) -> Responses:
        """Try every step of a walk once."""
        history, stages = walk.solver.history, most_evaluations(walk)
        inputs = 1 + history + 2 * stages
        basis = torch.eye(inputs, dtype=torch.float64)[:, :, None]
        still = torch.zeros(inputs, 1, dtype=torch.float64)
        x, *rows = basis
        past, said = tuple(rows[:history]), rows[history:]
        trial = replace(walk, noise=lambda i: still)
        tables, levels = [], []
        for i in range(walk.grid.steps):
            asked: list[tuple[torch.Tensor, Level]] = []

            def known(x: torch.Tensor, level: Level, asked: list[Any] = asked) -> Prediction:
                at = 2 * len(asked)
                asked.append((x, level))
                return Prediction(said[at], said[at + 1], still)

            x_next, past_next = trial.replay(known, x, past, i)
            after = [x_next, *past_next, *[still] * (history - len(past_next))]
            questions = [*(x for x, _ in asked), *[still] * (stages - len(asked))]
            tables.append(torch.cat([*questions, *after], dim=1).T)
            levels.append(tuple(level for _, level in asked))
        absent = Level(0.0, 0.5)
        padded = [[*known, *[absent] * (stages - len(known))] for known in levels]
        a, s = (
            np.array([[getattr(level, name) for level in row] for row in padded]) for name in "as"
        )
        return cls(tuple(levels), a, s, _polynomials(torch.stack(tables).numpy(), a, s))


def _polynomials(
    tables: NDArray[np.float64], a: NDArray[np.float64], s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Put the answers' dependence on the state into the coefficients of every step.

    Parameters
    ----------
    tables : array, shape (N, Q + 1 + H, 1 + H + 2 Q)
        Questions and parts of the state after a step, by the basis.
    a, s : array, shape (N, Q)
    """
    steps, outs, inputs = tables.shape
    stages = a.shape[1]
    parts = inputs - 2 * stages
    moves = np.zeros((steps, 2**stages, outs, parts))
    known = np.zeros((steps, 2**stages, inputs, parts))
    known[:, 0, range(parts), range(parts)] = 1
    inverse = np.divide(1, a, out=np.zeros_like(a), where=a > 0)  # pure noise never moves
    for out, power in product(range(outs), range(2**stages)):
        moves[:, power, out] = np.einsum("ni,nip->np", tables[:, out], known[:, power])
        if out < stages and power == 2**stages - 1:
            q, at = out, parts + 2 * out
            for p in (p for p in range(2**stages) if not p >> q & 1):
                move, with_slope = moves[:, p, q], p | 1 << q
                known[:, p, at] = inverse[:, q, None] * move
                known[:, with_slope, at] = -(inverse * s)[:, q, None] * move
                known[:, with_slope, at + 1] = move
    return moves


def at_slopes(moves: Any, kappa: Any) -> Any:
    """Insert slopes (..., Q) into moves (..., 2**Q, Q + 1 + H, 1 + H), arrays or tensors alike."""
    for q in reversed(range(kappa.shape[-1])):
        half = 1 << q
        moves = moves[..., :half, :, :] + kappa[..., q, None, None, None] * moves[..., half:, :, :]
    return moves[..., 0, :, :]
