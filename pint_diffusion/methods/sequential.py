"""The sequential sampler: one walk of N steps, each slice on the rank that owns it.

The parallel methods reproduce its answer. Over several ranks each owner sends the state to the next
one, and one rank works at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from pint_diffusion.methods.method import Sliced, Start
from pint_diffusion.methods.problem import Problem
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.runtime.requests import Ask
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.solvers.linear import try_walk


class Sequential(Sliced):
    """The sequential sampler; over several ranks the state goes from owner to owner."""

    name: ClassVar[str] = "sequential"
    iterates: ClassVar[bool] = False

    def prepare(self, problem: Problem) -> Start:
        """Return the function that starts the coroutines of a rank."""
        return partial(sequential, problem)

    def seconds_on(
        self,
        devices: int,
        problem: Problem,
        iterations: int,
        in_a_row: Sequence[int],
        costs: Mapping[int, float],
    ) -> float | None:
        """Return the seconds of a run, the same on any number of devices; see `Method`."""
        return sum(try_walk(problem.fine, "fine")) * costs[1]

    def default_slices(self, steps: int, ranks: int) -> int:
        """Return one slice for each rank."""
        return ranks


def sequential(problem: Problem, runtime: Runtime) -> None:
    """Start the coroutines of this rank."""
    grid, owner = problem.grid, problem.owner
    slices, samples = grid.slices, len(problem.noise)
    u = runtime.cells(
        problem.state,
        made_on=lambda n: owner(n - 1) if n else 0,
        read_on=lambda n: [owner(n)],
        kept_on=owner,
    )

    async def start() -> None:
        u[0, 0] = problem.fine.start(problem.noise)

    async def walk(n: int) -> None:
        state = await u[n, 0]
        assert state is not None
        u[n + 1, 0] = await problem.fine(Ask("fine", n, 0), state, n, n)

    async def judge() -> None:
        state = await u[slices, 0]
        assert state is not None
        await runtime.answer(0, problem.shown(state), None)
        runtime.finish(Outcome(0, True, True, np.empty((0, samples)), np.zeros(samples, np.int32)))

    runtime.spawn(0, start)
    for n in range(slices):
        runtime.spawn(owner(n), walk, n)
    runtime.spawn(0, judge)
