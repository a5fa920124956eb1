"""Pipelined Parareal for diffusion sampling: SRDS (Selvam et al. 2024, arXiv 2412.08292).

Slices n = 0 .. M-1, iterations k, boundary states u_n^k, fine solves f = F(u), coarse g = G(u):

    u_0^k = noise;   u_{n+1}^0 = g_n^0                                    predictor sweep
    u_{n+1}^k = f_n^{k-1} + (g_n^k - g_n^{k-1})                           k >= 1
    u_{n+1}^k = f_n^{k-1}            if u_n did not move from k-1 to k: exact, to the bit

Slices before k are exact at iteration k: for n < k, u_n^k is u_n^n and nobody computes it again.
Slice n retires after f_n^n. Each coroutine below waits only for the values it uses, so iteration
k + 1 of a slice starts the moment its start state arrives. This is the pipeline: u_M^k takes
kB + M - k evaluations in a row. Placement is the rank on which `coarse` and `correct` run.

A state is x and the history that a multistep fine solver carries. G takes and gives x alone, so
only x is corrected. The history of u_{n+1}^k is that of f_n^{k-1}, and u_{n+1}^0 has none.

A resumed run begins at iteration k0 with the states u_n^k0, n >= k0. It needs no more: it computes
g_n^k0 again, and all that follows depends on these.

None stands for "did not move": as a boundary state, and as the f and g that follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.methods.method import Sliced, Start, best_slices
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.times import parareal_on
from pint_diffusion.options import FREE
from pint_diffusion.runtime.requests import Ask, Layout
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.solvers import knowing
from pint_diffusion.solvers.langevin import Corrected
from pint_diffusion.solvers.linear import try_walk


class Parareal(Sliced):
    """Pipelined Parareal (SRDS): coarse and fine solves of slices."""

    name: ClassVar[str] = "parareal"
    uses_coarse: ClassVar[bool] = True

    placement: Literal["root", "slice"] = Field(
        "root",
        json_schema_extra=FREE,
        description="rank of coarse solves and corrections: rank 0, or the slice's own",
    )

    def prepare(self, problem: Problem) -> Start:
        """Return what starts the coroutines of a rank."""
        return partial(parareal, problem, self.placement)

    def check(self, problem: Problem) -> None:
        """Refuse Langevin steps, of which the coarse solves know nothing."""
        if isinstance(problem.fine.solver, Corrected):
            raise InputError(
                "`corrector_steps` draws noise at slice boundaries, which the coarse solves of "
                "parareal know nothing of: take the method piadm"
            )

    def default_slices(self, steps: int, ranks: int) -> int:
        """Return the multiple of the ranks that takes the fewest evaluations in a row."""
        return best_slices(steps, ranks)

    def seconds_on(
        self,
        devices: int,
        problem: Problem,
        iterations: int,
        in_a_row: Sequence[int],
        costs: Mapping[int, float],
    ) -> float | None:
        """Return the seconds of a run on so many devices; see `Method`."""
        # With `root` it is not only slices that are dealt out; another network has other costs.
        if self.placement != "slice" or problem.coarse_network != 0:
            return None
        fine, coarse = try_walk(problem.fine, "fine"), try_walk(problem.coarse, "coarse")
        return parareal_on(fine, coarse, problem.evaluates_alike, iterations, devices, costs)


def parareal(problem: Problem, placement: str, runtime: Runtime) -> None:
    """Start the coroutines of this rank."""
    fine, coarse, owner = problem.fine, problem.coarse, problem.owner
    slices, last = problem.grid.slices, problem.max_iterations
    restart = problem.restart
    k0 = restart.k if restart else 0
    at_slice = placement == "slice"
    share = at_slice and problem.evaluates_alike  # G's only evaluation is F's first

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
    g = runtime.cells(
        problem.state._replace(shape=(1, *problem.noise.shape)), corrector, lambda n: [corrector(n)]
    )
    change = runtime.cells(notes, maker, lambda n: [0])

    async def start() -> None:
        u[k0, k0] = restart.state(k0) if restart else fine.start(problem.noise)

    async def solve(n: int) -> None:
        for k in range(k0, min(n, last) + 1):
            state = await u[n, k]
            if share:
                runtime.spawn(owner(n), solve_both, n, k, state)
            elif k < last:
                runtime.spawn(owner(n), solve_fine, n, k, state)

    async def solve_fine(n: int, k: int, state: Tensor | None) -> None:
        f[n, k] = None if state is None else await fine(ask_fine(n, k), state, n, k)

    async def sweep(n: int) -> None:
        for k in range(k0, min(n, last) + 1):
            runtime.spawn(corrector(n), solve_coarse, n, k, await u[n, k])

    async def solve_coarse(n: int, k: int, state: Tensor | None) -> None:
        ask = Ask("coarse", n, k, problem.coarse_network)
        g[n, k] = None if state is None else await coarse(ask, state, n, k)

    async def solve_both(n: int, k: int, state: Tensor | None) -> None:
        if state is None:
            g[n, k] = None
            if k < last:
                f[n, k] = None
            return
        kind = "shared" if k < last else "coarse"
        start = state[0], fine.first_level(n)
        seen = await Ask(kind, n, k)(*start)
        g[n, k] = await coarse(knowing(seen, *start, Ask("coarse", n, k)), state, n, k)
        if k < last:
            f[n, k] = await fine(knowing(seen, *start, ask_fine(n, k)), state, n, k)

    def ask_fine(n: int, k: int) -> Ask:
        """The last evaluation of f_n^k had better meet the first one of f_n^{k+1}: u_n^{k+1} is
        due one evaluation before f_n^k is done.
        """
        follows = k + 1 <= min(n, last if share else last - 1)
        at = fine.last_level(n)
        meet = (at, u[n, k + 1]) if follows and at is not None else None
        return Ask("fine", n, k, meet=meet)

    async def correct(n: int) -> None:
        g_old = await g[n, k0]
        assert g_old is not None  # the first iteration made them all
        f_old: Tensor | None = None
        new = u[n + 1, k0] = restart.state(n + 1) if restart else fine.start(g_old[0])
        for k in range(k0 + 1, min(n + 1, last) + 1):
            g_new = await g[n, k] if k <= n else None
            f_new = await f[n, k - 1]
            f_old = f_old if f_new is None else f_new
            assert f_old is not None
            old = new
            if g_new is None:
                new = f_old
            else:
                new, g_old = torch.cat([f_old[:1] + (g_new - g_old), f_old[1:]]), g_new
            more = fine.carried(n + 1, k) > fine.carried(n + 1, k - 1)
            u[n + 1, k] = None if torch.equal(new, old) and not more else new
            # Only the last boundary decides; of the others rank 0 hears that they are there.
            at_end = n + 1 == slices
            change[n + 1, k] = problem.stop_rule.change(new[0], old[0]) if at_end else None

    async def watch(n: int) -> None:
        for k in range(k0 + 1, min(n, last) + 1):
            await change[n, k]
            runtime.boundary(n, k)

    async def judge() -> None:
        changes = list(restart.changes) if restart else []
        k, state = k0, await u[slices, k0]
        while True:
            assert state is not None
            stop = await runtime.answer(k, state[0], changes[-1] if changes else None)
            if outcome := problem.outcome(changes, stop or k >= last, exact=k == slices):
                break
            k += 1
            moved = await u[slices, k]
            state = state if moved is None else moved
            told = await change[slices, k]
            assert told is not None
            changes.append(told.numpy())
        runtime.finish(outcome)

    runtime.spawn(maker(k0), start)
    for n in range(k0, slices):
        runtime.spawn(owner(n), solve, n)
        if not share:
            runtime.spawn(corrector(n), sweep, n)
        runtime.spawn(corrector(n), correct, n)
    for n in range(k0 + 1, slices):
        runtime.spawn(0, watch, n)
    runtime.spawn(0, judge)
