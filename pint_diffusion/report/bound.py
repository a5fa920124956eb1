"""How many network evaluations deep a pipelined Parareal run must be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pint_diffusion.errors import InputError


def dataflow_bound(bounds: Sequence[int], k: int, coarse_steps: int = 1) -> int:
    """Length of the longest chain of dependent network evaluations behind u_M^k.

    No machine, however many ranks it has, finishes iteration k in fewer evaluations one after
    another. With ``T_u[n, k]`` and ``T_f[n, k]`` the evaluations behind u_n^k and F(u_n^k), B_n
    the steps and C_n the coarse steps of slice n::

        T_u[0, k]     = 0
        T_f[n, k]     = T_u[n, k] + B_n
        T_u[n + 1, 0] = T_u[n, 0] + C_n
        T_u[n + 1, k] = T_f[n, k - 1]                            if n < k: start did not move
        T_u[n + 1, k] = max(T_f[n, k - 1], T_u[n, k] + C_n)      otherwise

    For M even slices of B steps and one coarse step this is kB + M - k (SRDS, Prop. 2,
    arXiv 2412.08292), for C <= B coarse steps kB + (M - k)C. After M iterations it is N: nothing
    is gained over the sequential walk.

    Parameters
    ----------
    bounds : sequence of int, length M + 1
        Step indices of the slice boundaries.
    k : int
        Iterations; beyond M nothing changes any more.
    coarse_steps : int
        Steps of a coarse solve; a slice with fewer fine steps uses as many as it has.

    Returns
    -------
    int
        T_u[M, k], in network evaluations.

    Raises
    ------
    InputError
        If the bounds do not rise strictly, or ``k`` < 0, or ``coarse_steps`` < 1.
    """
    fine = np.diff(np.asarray(bounds, dtype=np.int64))
    if fine.size < 1 or (fine <= 0).any():
        raise InputError(f"slice boundaries {list(bounds)} must rise strictly")
    if k < 0 or coarse_steps < 1:
        raise InputError(f"k is {k} and coarse_steps {coarse_steps}; needed: k >= 0, steps >= 1")
    coarse = np.minimum(fine, coarse_steps)
    before = np.concatenate([[0], np.cumsum(coarse)])  # T_u[:, 0]
    for j in range(1, min(k, fine.size) + 1):
        now = np.zeros_like(before)
        for n in range(fine.size):
            fine_done = before[n] + fine[n]
            now[n + 1] = fine_done if n < j else max(fine_done, now[n] + coarse[n])
        before = now
    return int(before[-1])


def even_steps(bounds: Sequence[int]) -> int | None:
    """B, the steps of every slice, or None if slices differ."""
    lengths = {int(length) for length in np.diff(np.asarray(bounds))}
    return lengths.pop() if len(lengths) == 1 else None
