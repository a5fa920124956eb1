"""The dataflow bound: how many network evaluations deep a pipelined Parareal run must be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pint_diffusion.errors import InputError


def dataflow_bound(fine: Sequence[int], coarse: Sequence[int], k: int) -> int:
    """Return the length of the longest chain of dependent network evaluations behind u_M^k.

    No number of ranks finishes iteration k in fewer evaluations one after another. Let
    ``T_u[n, k]`` and ``T_f[n, k]`` be the evaluations behind u_n^k and F(u_n^k), and F_n and C_n
    those of a fine and a coarse solve of slice n::

        T_u[0, k]     = 0
        T_f[n, k]     = T_u[n, k] + F_n
        T_u[n + 1, 0] = T_u[n, 0] + C_n
        T_u[n + 1, k] = T_f[n, k - 1]                            if n < k: start did not move
        T_u[n + 1, k] = max(T_f[n, k - 1], T_u[n, k] + C_n)      otherwise

    For M even slices of B evaluations and one coarse one this is kB + M - k (SRDS, Prop. 2,
    arXiv 2412.08292), for C <= B coarse ones kB + (M - k)C. After M iterations it is the count of
    the sequential walk, so the run gains nothing.

    Parameters
    ----------
    fine, coarse : sequence of int, length M
        Evaluations of a fine and of a coarse solve of each slice.
    k : int
        Number of iterations; beyond M nothing changes.

    Returns
    -------
    int
        T_u[M, k], in network evaluations.

    Raises
    ------
    InputError
        If a slice has no evaluations, if the lengths differ, or if ``k`` < 0.
    """
    if not fine or len(fine) != len(coarse) or min(*fine, *coarse) < 1 or k < 0:
        raise InputError(
            f"k is {k}, and fine and coarse solves take {list(fine)} and {list(coarse)} "
            "evaluations; needed: k >= 0, and at least one of each for every slice"
        )
    before = [0, *np.cumsum(coarse).tolist()]  # T_u[:, 0]
    for j in range(1, min(k, len(fine)) + 1):
        now = [0]
        for n, (b, c) in enumerate(zip(fine, coarse, strict=True)):
            fine_done = before[n] + b
            now.append(fine_done if n < j else max(fine_done, now[n] + c))
        before = now
    return int(before[-1])


def barrier_depth(fine: Sequence[int], coarse: Sequence[int], k: int) -> int:
    """Return the evaluations one after another of SRDS without its pipeline.

    After the predictor sweep come k times all fine solves at once, a barrier, a coarse sweep, and
    a barrier: M + k(B + M) for M even slices of B evaluations and one coarse one.
    """
    return sum(coarse) + k * (max(fine) + sum(coarse))


def even_steps(bounds: Sequence[int]) -> int | None:
    """Return B, the steps of every slice, or None if slices differ."""
    lengths = {int(length) for length in np.diff(np.asarray(bounds))}
    return lengths.pop() if len(lengths) == 1 else None
