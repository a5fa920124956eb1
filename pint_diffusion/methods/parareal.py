"""Pipelined Parareal for diffusion sampling: SRDS (Selvam et al. 2024, arXiv 2412.08292).

Slices n = 0 .. M-1, iterations k, boundary states u_n^k, fine solves f = F(u), coarse g = G(u):

    u_0^k = noise;   u_{n+1}^0 = g_n^0                                    predictor sweep
    u_{n+1}^k = f_n^{k-1} + (g_n^k - g_n^{k-1})                           k >= 1
    u_{n+1}^k = f_n^{k-1}            if u_n did not move from k-1 to k: exact, to the bit

Slices before k are exact at iteration k: u_n^k for n < k is u_n^n, is never made, and slice n
retires after f_n^n. Each coroutine below waits only for the values it uses, so iteration k + 1 of
a slice starts the moment its start state is there: that is the pipeline, and it makes u_M^k after
kB + M - k evaluations in a row. Placement is the rank on which `coarse` and `correct` run.

None stands for "did not move": as a boundary state, and as the f and g that follow from it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.convergence import Outcome
from pint_diffusion.methods.problem import Problem
from pint_diffusion.runtime.requests import Ask, Layout
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.solvers import knowing, propagate


def parareal(runtime: Runtime, problem: Problem) -> None:
    """Start the coroutines of this rank."""
    grid, solver, owner = problem.grid, problem.solver, problem.owner
    slices, last = grid.slices, problem.max_iterations
    at_slice = problem.placement == "slice"
    share = at_slice and problem.coarse_steps == 1  # G's only evaluation is F's first

    def corrector(n: int) -> int:
        return owner(n) if at_slice else 0

    def maker(n: int) -> int:
        return corrector(n - 1) if n else 0

    def readers(n: int) -> list[int]:
        solving = [owner(n)] if share else [owner(n), corrector(n)]
        return solving if n < slices else [0]

    notes = Layout((len(problem.noise),), torch.float64, torch.device("cpu"))
    u = runtime.cells(problem.state, maker, readers, kept_on=owner)
    f = runtime.cells(problem.state, owner, lambda n: [corrector(n)])
    g = runtime.cells(problem.state, corrector, lambda n: [corrector(n)])
    change = runtime.cells(notes, maker, lambda n: [0])

    async def start() -> None:
        u[0, 0] = problem.noise

    async def solve(n: int) -> None:
        for k in range(min(n, last) + 1):
            x = await u[n, k]
            if share:
                runtime.spawn(owner(n), fine_and_coarse, n, k, x)
            elif k < last:
                runtime.spawn(owner(n), fine, n, k, x)

    async def fine(n: int, k: int, x: Tensor | None) -> None:
        f[n, k] = x if x is None else await propagate(solver, fine_ask(n, k), x, grid.fine(n))

    async def sweep(n: int) -> None:
        for k in range(min(n, last) + 1):
            runtime.spawn(corrector(n), coarse, n, k, await u[n, k])

    async def coarse(n: int, k: int, x: Tensor | None) -> None:
        levels = grid.coarse(n, problem.coarse_steps)
        g[n, k] = x if x is None else await propagate(solver, Ask("coarse", n, k), x, levels)

    async def fine_and_coarse(n: int, k: int, x: Tensor | None) -> None:
        if x is None:
            g[n, k] = None
            if k < last:
                f[n, k] = None
            return
        levels = grid.fine(n)
        first = await Ask("shared" if k < last else "coarse", n, k)(x, levels[0])
        g[n, k] = await solver(knowing(first, Ask("coarse", n, k)), x, levels[0], levels[-1])
        if k < last:
            f[n, k] = await propagate(solver, knowing(first, fine_ask(n, k)), x, levels)

    def fine_ask(n: int, k: int) -> Ask:
        """The last evaluation of f_n^k had better meet the first one of f_n^{k+1}: u_n^{k+1} is
        due one evaluation before f_n^k is done.
        """
        follows = k + 1 <= min(n, last if share else last - 1)
        return Ask("fine", n, k, meet=(grid.fine(n)[-2], u[n, k + 1]) if follows else None)

    async def correct(n: int) -> None:
        g_old = await g[n, 0]
        f_old: Tensor | None = None
        new = u[n + 1, 0] = g_old
        for k in range(1, min(n + 1, last) + 1):
            g_new = await g[n, k] if k <= n else None
            f_new = await f[n, k - 1]
            f_old = f_old if f_new is None else f_new
            assert new is not None  # iteration 0 made them all
            assert f_old is not None
            assert g_old is not None
            old = new
            if g_new is None:
                new = f_old
            else:
                new, g_old = f_old + (g_new - g_old), g_new
            u[n + 1, k] = None if torch.equal(new, old) else new
            # Only the last boundary decides; of the others rank 0 hears that they are there.
            at_end = n + 1 == slices
            change[n + 1, k] = problem.stop_rule.change(new, old) if at_end else None

    async def watch(n: int) -> None:
        for k in range(1, min(n, last) + 1):
            problem.watch(n, k, await change[n, k])

    async def judge() -> None:
        await u[slices, 0]
        problem.watch(slices, 0, None)
        changes = []
        for k in range(1, last + 1):
            await u[slices, k]
            moved = await change[slices, k]
            assert moved is not None
            problem.watch(slices, k, moved)
            changes.append(moved.numpy())
            stopped_at = problem.stop_rule.stopped_at(changes)
            exact = k == slices
            if exact or k == last or stopped_at.all():
                converged = exact or bool(stopped_at.all())
                break
        runtime.finish(Outcome(k, converged, exact, np.array(changes), stopped_at))

    runtime.spawn(0, start)
    for n in range(slices):
        runtime.spawn(owner(n), solve, n)
        if not share:
            runtime.spawn(corrector(n), sweep, n)
        runtime.spawn(corrector(n), correct, n)
    for n in range(1, slices):
        runtime.spawn(0, watch, n)
    runtime.spawn(0, judge)
