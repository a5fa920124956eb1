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
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.methods.method import Sliced, Start
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.times import parareal_on
from pint_diffusion.options import FREE
from pint_diffusion.runtime.requests import Ask, Layout
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.solvers import knowing
from pint_diffusion.solvers.langevin import Corrected
from pint_diffusion.solvers.linear import try_walk

EXPECTED_ITERATIONS = 4
"""Iterations that Parareal is expected to need, for the choice of slices."""


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
        return lambda runtime: Wavefront(problem, self.placement, runtime).spawn()

    def check(self, problem: Problem) -> None:
        """Refuse Langevin steps, of which the coarse solves know nothing."""
        if isinstance(problem.fine.solver, Corrected):
            raise InputError(
                "`corrector_steps` draws noise at slice boundaries, which the coarse solves of "
                "parareal know nothing of: take the method piadm"
            )

    def doubt(self, problem: Problem) -> str | None:
        """Compare evaluations one after another of the iterations to be expected with N's."""
        fine, coarse = try_walk(problem.fine, "fine"), try_walk(problem.coarse, "coarse")
        k = min(EXPECTED_ITERATIONS, problem.max_iterations)
        slices, free = len(fine), {1: 1.0}
        deep = parareal_on(fine, coarse, problem.evaluates_alike, k, slices, free)
        if deep < sum(fine):
            return None
        return (
            f"{k} iterations of parareal with {slices} slices are {deep:g} evaluations one after "
            f"another, and the sequential sampler makes {sum(fine)}: nothing is gained, so take "
            f"more `steps`, or another number of `slices`"
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


def bound(steps: int, slices: int, k: int) -> float:
    """Return T(k) = k B + M - k: evaluations in a row of pipelined Parareal (SRDS, Prop. 2)."""
    return k * steps / slices + slices - k


def best_slices(steps: int, ranks: int, k: int = EXPECTED_ITERATIONS) -> int:
    """Return the multiple of the ranks, at most N, with the least T(k): about sqrt(k N)."""
    most = max(steps // ranks, 1)
    return ranks * min(range(1, most + 1), key=lambda m: bound(steps, m * ranks, k))


class Wavefront:
    """The coroutines of one rank, and the values that they await.

    Parameters
    ----------
    problem : Problem
        What is sampled.
    placement : {"root", "slice"}
        Rank of coarse solves and corrections: rank 0, or the slice's own.
    runtime : Runtime
        Of this rank.
    """

    def __init__(self, problem: Problem, placement: str, runtime: Runtime) -> None:
        self.problem, self.runtime = problem, runtime
        self.fine, self.coarse, self.owner = problem.fine, problem.coarse, problem.owner
        self.slices, self.last = problem.grid.slices, problem.max_iterations
        self.restart = problem.restart
        self.k0 = problem.restart.k if problem.restart else 0
        self.at_slice = placement == "slice"
        self.share = self.at_slice and problem.evaluates_alike  # G's only evaluation is F's first
        state, of_corrector = problem.state, lambda n: [self.corrector(n)]
        x_alone = state._replace(shape=(1, *problem.noise.shape))
        notes = Layout((len(problem.noise),), torch.float64, torch.device("cpu"))
        self.u = runtime.cells(state, self.maker, self.readers, kept_on=self.owner)
        self.f = runtime.cells(state, self.owner, of_corrector)
        self.g = runtime.cells(x_alone, self.corrector, of_corrector)
        self.change = runtime.cells(notes, self.maker, lambda n: [0])

    def corrector(self, n: int) -> int:
        """Return the rank of coarse solves and corrections of slice ``n``."""
        return self.owner(n) if self.at_slice else 0

    def maker(self, n: int) -> int:
        """Return the rank that makes u_n."""
        return self.corrector(n - 1) if n else 0

    def readers(self, n: int) -> list[int]:
        """Return the ranks that await u_n."""
        solving = [self.owner(n)] if self.share else [self.owner(n), self.corrector(n)]
        return solving if n < self.slices else [0]

    def spawn(self) -> None:
        """Start the coroutines of this rank."""
        spawn, inner = self.runtime.spawn, range(self.k0, self.slices)
        spawn(self.maker(self.k0), self.start)
        for n in inner:
            spawn(self.owner(n), self.solve, n)
            if not self.share:
                spawn(self.corrector(n), self.sweep, n)
            spawn(self.corrector(n), self.correct, n)
        for n in inner[1:]:
            spawn(0, self.watch, n)
        spawn(0, self.judge)

    async def start(self) -> None:
        """Make the first boundary state: the noise, or what was kept of it."""
        fresh = self.fine.start(self.problem.noise)
        self.u[self.k0, self.k0] = self.restart.state(self.k0) if self.restart else fresh

    async def solve(self, n: int) -> None:
        """Start a fine solve, or both solves, of slice ``n`` whenever u_n^k is there."""
        for k in range(self.k0, min(n, self.last) + 1):
            state = await self.u[n, k]
            if self.share:
                self.runtime.spawn(self.owner(n), self.solve_both, n, k, state)
            elif k < self.last:
                self.runtime.spawn(self.owner(n), self.solve_fine, n, k, state)

    async def solve_fine(self, n: int, k: int, state: Tensor | None) -> None:
        """Make f_n^k."""
        ask = self.ask_fine(n, k)
        self.f[n, k] = None if state is None else await self.fine(ask, state, n, k)

    async def sweep(self, n: int) -> None:
        """Start a coarse solve of slice ``n`` whenever u_n^k is there."""
        for k in range(self.k0, min(n, self.last) + 1):
            self.runtime.spawn(self.corrector(n), self.solve_coarse, n, k, await self.u[n, k])

    async def solve_coarse(self, n: int, k: int, state: Tensor | None) -> None:
        """Make g_n^k."""
        ask = self.ask("coarse", n, k, self.problem.coarse_network)
        self.g[n, k] = None if state is None else await self.coarse(ask, state, n, k)

    async def solve_both(self, n: int, k: int, state: Tensor | None) -> None:
        """Make g_n^k and f_n^k, whose first evaluation is one."""
        if state is None:
            self.g[n, k] = None
            if k < self.last:
                self.f[n, k] = None
            return
        kind = "shared" if k < self.last else "coarse"
        start = state[0], self.fine.first_level(n)
        seen = await self.ask(kind, n, k)(*start)
        ask = knowing(seen, *start, self.ask("coarse", n, k))
        self.g[n, k] = await self.coarse(ask, state, n, k)
        if k < self.last:
            ask = knowing(seen, *start, self.ask_fine(n, k))
            self.f[n, k] = await self.fine(ask, state, n, k)

    def ask(self, kind: str, n: int, k: int, network: int = 0) -> Ask:
        """Return what asks for the evaluations of g_n^k, without which there is no u_M^k.

        A resumed run has u_M^k0, and makes g_n^k0 for what follows.
        """
        resumed = self.restart is not None and k == self.k0
        return Ask(kind, n, k, network, needed_by=k + resumed)

    def ask_fine(self, n: int, k: int) -> Ask:
        """Return what asks for the evaluations of f_n^k.

        The last one had better meet the first one of f_n^{k+1}: u_n^{k+1} is due one evaluation
        before f_n^k is done.
        """
        follows = k + 1 <= min(n, self.last if self.share else self.last - 1)
        at = self.fine.last_level(n)
        meet = (at, self.u[n, k + 1]) if follows and at is not None else None
        return Ask("fine", n, k, meet=meet, needed_by=k + 1)

    async def correct(self, n: int) -> None:
        """Make u_{n+1}^k for every k."""
        k0, fine, restart = self.k0, self.fine, self.restart
        if restart:
            new = self.u[n + 1, k0] = restart.state(n + 1)
        g_old = await self.g[n, k0]
        assert g_old is not None  # the first iteration made them all
        if not restart:
            new = self.u[n + 1, k0] = fine.start(g_old[0])
        f_old: Tensor | None = None
        for k in range(k0 + 1, min(n + 1, self.last) + 1):
            g_new = await self.g[n, k] if k <= n else None
            f_new = await self.f[n, k - 1]
            f_old = f_old if f_new is None else f_new
            assert f_old is not None
            old = new
            if g_new is None:
                new = f_old
            else:
                new, g_old = torch.cat([f_old[:1] + (g_new - g_old), f_old[1:]]), g_new
            more = fine.carried(n + 1, k) > fine.carried(n + 1, k - 1)
            self.u[n + 1, k] = None if torch.equal(new, old) and not more else new
            # Only the last boundary decides; of the others rank 0 hears that they are there.
            at_end = n + 1 == self.slices
            moved = self.problem.stop_rule.change(new[0], old[0]) if at_end else None
            self.change[n + 1, k] = moved

    async def watch(self, n: int) -> None:
        """Tell the outputs of boundary states before the last one."""
        for k in range(self.k0 + 1, min(n, self.last) + 1):
            await self.change[n, k]
            self.runtime.outputs.boundary(n, k)

    async def judge(self) -> None:
        """Show every answer u_M^k, and end the run."""
        restart, slices = self.restart, self.slices
        changes = list(restart.changes) if restart else []
        k, state = self.k0, await self.u[slices, self.k0]
        while True:
            assert state is not None
            told = changes[-1] if changes else None
            shown = self.problem.shown(state)
            stop = await self.runtime.answer(k, shown, told) or k >= self.last
            if outcome := self.problem.outcome(changes, stop, exact=k == slices):
                break
            k += 1
            moved = await self.u[slices, k]
            state = state if moved is None else moved
            change = await self.change[slices, k]
            assert change is not None
            changes.append(change.numpy())
        self.runtime.finish(outcome)
