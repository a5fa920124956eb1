"""GITS: choose the K steps of a fine walk that lose least, by dynamic programming.

Chen et al. 2024 (ICML, arXiv 2405.11326). The states are y = x / a = x0 + sigma eps, in which
DDIM's steps are straight lines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pint_diffusion.errors import InputError

FACTOR = 1.15
"""Factor by which the error of each later step weighs more (the paper's choice)."""


def jump_costs(
    x0: NDArray[np.float64], eps: NDArray[np.float64], sigma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Measure what one DDIM step instead of many gets wrong.

    Parameters
    ----------
    x0, eps : ndarray, shape (P - 1, S, D)
        Clean samples and noise that the network saw at all but the last of the P points of a DDIM
        walk of S samples.
    sigma : ndarray, shape (P,)
        Noise levels s / a of the points. They fall; the first may be infinite.

    Returns
    -------
    ndarray, shape (P, P)
        Entry (i, j) is |y_i + (sigma_j - sigma_i) eps_i - y_j|, the mean over samples of the
        Euclidean norm; infinite for j <= i.
    """
    later = sigma[1:, None, None]
    walked = x0 + later * eps  # y at the points after the first
    cost = np.full((len(sigma), len(sigma)), np.inf)
    for i in range(len(x0)):
        jumped = x0[i] + later[i:] * eps[i]
        cost[i, i + 1 :] = np.linalg.norm(jumped - walked[i:], axis=2).mean(axis=1)
    return cost


def best_path(cost: NDArray[np.float64], steps: int, factor: float = FACTOR) -> tuple[int, ...]:
    """Find the cheapest path from the first point to the last.

    V[j, k], the cost of k steps from point j to the last one, is the least of
    cost[j, i] + factor V[i, k - 1] over i. With ``factor`` 1 it is a plain sum.

    Parameters
    ----------
    cost : ndarray, shape (P, P)
        Cost of a step from i to j > i. The function reads no other entries.
    steps : int
        Number K of steps.
    factor : float
        Weight of what follows a step.

    Returns
    -------
    tuple of int
        K + 1 indices, 0 to P - 1, rising.

    Raises
    ------
    InputError
        If there are not 1 to P - 1 steps.
    """
    last = len(cost) - 1
    if not 1 <= steps <= last:
        raise InputError(f"{steps} steps can't be chosen out of {last}: take 1 to {last}")
    forward = np.where(np.triu(np.ones_like(cost, dtype=bool), k=1), cost, np.inf)
    value, choices = forward[:, last], []
    for _ in range(steps - 1):
        through = forward + factor * value
        choices.append(through.argmin(axis=1))
        value = through.min(axis=1)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return (*path, last)
