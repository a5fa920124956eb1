"""CHORDS: cores that start at different points of one walk (Han et al. 2025, arXiv 2507.15260).

Core c = 0 .. C-1 walks from point t_c to N, one evaluation per step, 0 = t_0 < t_1 < ... < t_C = N.
It starts d_c = t_c - t_{c-1} points after the core before it. Let J_d(x) be the solver's own step
over d points at once, with the evaluation at x, and p = t_c + m d_c <= N, m = 0, 1, ...:

    x_c(t_c) = J_d(x_{c-1}(t_{c-1}))                                      start, d = d_c
    x_c(p)   = F + (J_d(x_{c-1}(p - d)) - J_d(x_c(p - d)))                m >= 1, correction
    x_c(i+1) = F                                                          otherwise

with F = J_1(x_c(i)), the step from the point before. A jump needs no evaluation of its own: core
c - 1 evaluates x_{c-1}(p - d) anyway, in the same tick in which core c evaluates x_c(p - 1). So no
core waits. Core c is at N after c + N - t_c evaluations in a row, and results stream out:

    result k = x_{C-k}(N),  k = 0 .. C

where "core" C is a jump from t_{C-1} to the end. Core 0 is never corrected: it is the sequential
walk.

A resumed run begins at the moment of result k. For each core c < C - k it needs two states of that
moment: x, and the jump that the next correction of the core subtracts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import ceil
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid import TimeGrid
from pint_diffusion.methods.method import Method, Start
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.times import chords_on
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.runtime.requests import Ask, Layout
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.solvers.linear import try_walk

PUBLISHED = (0, 2, 4, 8, 16, 24, 32, 40)
"""Published starts of 8 cores in 50 steps."""


class Chords(Method):
    """CHORDS: walks that start at different steps; results stream out, coarsest first."""

    name: ClassVar[str] = "chords"
    extra_tensors: ClassVar[int] = 1
    column: ClassVar[str] = "core"

    cores: PositiveInt = Field(8, description="walks that start at different steps")
    starts: tuple[int, ...] = Field(
        (), description="the steps at which they start, 0,...; the published ones if not given"
    )

    def model_post_init(self, context: object) -> None:
        """Set the number of cores to that of the given starts."""
        if self.starts and "cores" not in self.model_fields_set:
            object.__setattr__(self, "cores", len(self.starts))

    def prepare(self, problem: Problem) -> Start:
        """Return the function that starts the coroutines of a rank."""
        return partial(chords, problem, self.starts_in(problem.grid))

    def columns(self, grid: TimeGrid) -> int:
        """Return the number of cores."""
        return self.cores

    def starts_in(self, grid: TimeGrid) -> tuple[int, ...]:
        """Return the points of a grid at which the cores start, see `starts_of`."""
        return starts_of(grid, cores=self.cores, starts=self.starts)

    def check(self, problem: Problem) -> None:
        """Check that one evaluation is enough for a jump, and that every rank has a core.

        Raises
        ------
        InputError
            If one of these does not hold, or if a jump does not give finite numbers.
        """
        solver = problem.fine.solver
        if solver.history or solver.stochastic or solver.evaluations > 1 or not solver.starts_here:
            raise InputError(
                f"the method chords jumps with one evaluation that it has already, and the solver "
                f"{solver.name} carries a history, draws noise or evaluates more than once in a "
                "step: take a solver that does not, as ddim, euler or flow_euler"
            )
        if problem.ranks > self.cores:
            raise InputError(
                f"{problem.ranks} ranks for {self.cores} cores: every rank needs at least one "
                "core, so raise `cores` or start fewer ranks"
            )
        t = (*self.starts_in(problem.grid), problem.grid.steps)
        over = TimeGrid(tuple(problem.grid.levels[i] for i in t), tuple(range(len(t))))
        try_walk(replace(problem.fine, grid=over), "coarse")

    def held_states(self, steps: int, slices: int, ranks: int, history: int) -> int:
        """Return the number of x and jumps of a rank's cores, and one state under way."""
        return 2 * ceil(self.cores / ranks) + 1

    def seconds_on(
        self,
        devices: int,
        problem: Problem,
        iterations: int,
        in_a_row: Sequence[int],
        costs: Mapping[int, float],
    ) -> float | None:
        """Return the seconds of a run on P devices; see `Method`."""
        steps = sum(try_walk(problem.fine, "fine"))
        return chords_on(self.starts_in(problem.grid), steps, iterations, devices, costs)


def chords(problem: Problem, starts: tuple[int, ...], runtime: Runtime) -> None:
    """Start the coroutines of this rank.

    Column n of a checkpoint belongs to core C - 1 - n, so columns n < k are final at result k.
    """
    walk, levels, steps = problem.fine, problem.grid.levels, problem.grid.steps
    cores, t = len(starts), (*starts, steps)
    apart = (0, *(b - a for a, b in pairwise(t)))
    ticks = [c + steps - t[c] for c in range(cores, -1, -1)]  # behind result k = 0 .. C
    restart = problem.restart
    k0 = restart.k if restart else 0

    def owner(c: int) -> int:
        return (cores - 1 - c) % problem.ranks if c < cores else 0

    state = Layout(tuple(problem.noise.shape), problem.noise.dtype, problem.noise.device)
    jumps = runtime.cells(state, lambda c: owner(c - 1), lambda c: [owner(c)])
    ends = runtime.cells(state, owner, lambda c: [0])
    runtime.keeps(lambda k: range(k + (runtime.rank - k) % problem.ranks, cores, problem.ranks))

    def jump(x: Tensor, seen: Prediction, i: int, j: int) -> Tensor:
        over = replace(walk, grid=TimeGrid((levels[i], levels[j]), (0, 1)))
        return over.replay(lambda *_: seen, x, (), 0)[0]

    def point(c: int, k: int) -> int:
        """Return the point of core ``c`` at the moment of result ``k``."""
        return t[c] + ticks[k] - c

    def ask(c: int, i: int) -> Ask:
        """Ask for point ``i`` of core ``c``; what precedes result k + 1 belongs to iteration k."""
        needed = bisect_left(ticks, i - t[c] + c + 1)
        return Ask("fine", c, max(needed - 1, 0), place=f"core {c}", needed_by=needed)

    async def core(c: int) -> None:
        if restart:
            i = point(c, k0)
            x, taken = restart.state(cores - 1 - c)
        else:
            i, x = t[c], problem.noise
            if c > 0:
                given = await jumps[c, 0]
                assert given is not None
                x = given
            taken = torch.zeros_like(x)
        rows = {point(c, k): k for k in range(k0, cores - c)}
        while i < steps:
            if i in rows:
                runtime.keep(cores - 1 - c, rows[i], torch.stack([x, taken]))
            seen = await ask(c, i)(x, levels[i])
            m, off = divmod(i - t[c], apart[c + 1])
            if off == 0 and i + apart[c + 1] <= steps:
                jumps[c + 1, m] = jump(x, seen, i, i + apart[c + 1])
            if c > 0 and (i - t[c]) % apart[c] == 0 and i + apart[c] <= steps:
                taken = jump(x, seen, i, i + apart[c])
            x, _ = walk.replay(lambda *_, seen=seen: seen, x, (), i)
            i += 1
            if c > 0 and (i - t[c]) % apart[c] == 0:
                given = await jumps[c, (i - t[c]) // apart[c]]
                assert given is not None
                x = x + (given - taken)
        ends[c, 0] = x

    async def judge() -> None:
        changes = list(restart.changes) if restart else []
        k, answer = k0, restart.state(cores)[0] if restart else await ends[cores, 0]
        while True:
            assert answer is not None
            runtime.keep(cores, k, torch.stack([answer, torch.zeros_like(answer)]))
            stop = await runtime.answer(k, answer, changes[-1] if changes else None)
            last = stop or k >= problem.max_iterations
            if outcome := problem.outcome(changes, last, exact=k == cores):
                break
            k, old, answer = k + 1, answer, await ends[cores - k - 1, 0]
            assert answer is not None
            changes.append(problem.stop_rule.change(answer, old).numpy())
        runtime.finish(outcome)

    for c in range(cores - k0 if restart else cores + 1):
        runtime.spawn(owner(c), core, c)
    runtime.spawn(0, judge)


def starts_of(grid: TimeGrid, *, cores: int, starts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the points t_c at which cores start: those given, or the published ones scaled to N.

    A number of cores other than 8 starts evenly over the same part of the walk. Cores start at
    least two points apart: a core one point behind another would be at the same point in every
    tick, with the same state.

    Raises
    ------
    InputError
        If the starts do not fit the grid.
    """
    steps = grid.steps
    if starts:
        t = (*starts, steps)
        if len(starts) != cores:
            raise InputError(
                f"`starts` has {len(starts)} points and `cores` is {cores}: give one of the two"
            )
        if starts[0] != 0 or any(b - a < 2 for a, b in pairwise(t)):
            raise InputError(
                f"`starts` {','.join(map(str, starts))} must begin with 0 and rise by 2 or more, "
                f"up to {steps - 2} at most, as there are {steps} steps"
            )
        return starts
    if steps < 2 * cores:
        raise InputError(
            f"`cores` {cores} is too many for {steps} steps: cores start two steps apart or more, "
            f"so at most {steps // 2} have room"
        )
    even = [PUBLISHED[-1] * c / cores for c in range(cores)]
    t = ()
    for c, start in enumerate(PUBLISHED if cores == len(PUBLISHED) else even):
        least, most = (t[-1] + 2 if t else 0), steps - 2 * (cores - c)
        t = (*t, min(max(round(start * steps / 50), least), most))
    return t
