"""The sequential sampler: one walk of N steps, each slice on the rank that owns it.

It is the reference that the parallel methods reproduce, and their serial twin: over several ranks
the state is handed on from owner to owner, and one rank works at a time.
"""

from __future__ import annotations

import numpy as np

from pint_diffusion.methods.problem import Problem
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.runtime.requests import Ask
from pint_diffusion.runtime.scheduler import Runtime


def sequential(runtime: Runtime, problem: Problem) -> None:
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
        await runtime.answer(0, state[0], None)
        runtime.finish(Outcome(0, True, True, np.empty((0, samples)), np.zeros(samples, np.int32)))

    runtime.spawn(0, start)
    for n in range(slices):
        runtime.spawn(owner(n), walk, n)
    runtime.spawn(0, judge)
