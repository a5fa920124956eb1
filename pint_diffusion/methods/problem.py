"""What a method is given to solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pint_diffusion.convergence import StopRule
from pint_diffusion.grid import TimeGrid
from pint_diffusion.runtime.requests import Layout
from pint_diffusion.solvers import Step


@dataclass(frozen=True)
class Problem:
    """A sampling problem and how it is spread over ranks.

    Attributes
    ----------
    grid : TimeGrid
        N fine steps in M slices.
    noise : Tensor, shape (S, *shape)
        u_0, the same on every rank.
    solver : Step
        One-step map of the fine and the coarse propagator.
    coarse_steps : int
        Steps of a coarse solve over one slice.
    placement : {"root", "slice"}
        Where coarse solves and corrections run: on rank 0, or on the rank that owns the slice.
    max_iterations : int
        Most iterations K, at most M.
    stop_rule : StopRule
        When to stop before that.
    ranks : int
        Number of ranks.
    watch : callable
        Rank 0 calls it with (n, k, change) for each boundary state u_n^k that was made; change is
        (S,) on the [0, 255] scale for n = M and k > 0, else None.
    """

    grid: TimeGrid
    noise: Tensor
    solver: Step
    coarse_steps: int
    placement: Literal["root", "slice"]
    max_iterations: int
    stop_rule: StopRule
    ranks: int
    watch: Callable[[int, int, Tensor | None], None]

    def owner(self, n: int) -> int:
        """Rank of slice ``n``; the last boundary state, n = M, belongs to rank 0.

        Slices are dealt out in turn, so that a rank with several has early and late ones: the
        wavefront starts at slice 0, and slices retire from there.
        """
        return n % self.ranks if n < self.grid.slices else 0

    @property
    def state(self) -> Layout:
        """Layout of a boundary state."""
        return Layout(tuple(self.noise.shape), self.noise.dtype, self.noise.device)
