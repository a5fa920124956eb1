"""CHORDS: cores that start at different points of one walk (Han et al. 2025, arXiv 2507.15260).

Core c = 0 .. C-1 walks from point t_c to N, one evaluation per step, 0 = t_0 < t_1 < ... < t_C = N.
Between it and the core before lie d_c = t_c - t_{c-1} points. Let J_d(x) be the solver's own step
over d points at once, of what the network says of x, and p = t_c + m d_c <= N, m = 0, 1, ...:

    x_c(t_c) = J_d(x_{c-1}(t_{c-1}))                                      start, d = d_c
    x_c(p)   = F + (J_d(x_{c-1}(p - d)) - J_d(x_c(p - d)))                m >= 1, correction
    x_c(i+1) = F                                                          otherwise

with F = J_1(x_c(i)), the step from the point before. A jump asks for no evaluation of its own: the
walk makes that of x_{c-1}(p - d) anyway, and in the same tick as core c that of x_c(p - 1). So no
core waits, core c is at N after c + N - t_c evaluations in a row, and results stream out:

    result k = x_{C-k}(N),  k = 0 .. C

where "core" C is a jump from t_{C-1} to the end. Core 0 is never corrected: it is the sequential
walk. A run that is gone on with begins when result k is there. Of core c < C - k that takes its x
then, and the jump that its next correction takes away.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid import TimeGrid
from pint_diffusion.methods.method import Method
from pint_diffusion.methods.problem import Problem
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.runtime.requests import Ask, Layout
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.solvers.linear import try_walk

PUBLISHED = (0, 2, 4, 8, 16, 24, 32, 40)
"""Starts of 8 cores in 50 steps."""


def chords(runtime: Runtime, problem: Problem, *, cores: int, starts: tuple[int, ...]) -> None:
    """Start the coroutines of this rank.

    Column n of a checkpoint is of core C - 1 - n, so that the columns n < k are done at result k.
    """
    walk, levels, steps = problem.fine, problem.grid.levels, problem.grid.steps
    t = (*starts_of(problem.grid, cores=cores, starts=starts), steps)
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
        """Where core ``c`` is when result ``k`` is there."""
        return t[c] + ticks[k] - c

    def ask(c: int, i: int) -> Ask:
        """Evaluations before result k + 1 belong to iteration k."""
        k = max(bisect_left(ticks, i - t[c] + c + 1) - 1, 0)
        return Ask("fine", c, k, place=f"core {c}")

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
            problem.watch(cores, k, torch.from_numpy(changes[-1]) if changes else None)
            last, exact = k >= problem.max_iterations, k == cores
            if k and (outcome := problem.stop_rule.outcome(changes, last, exact)):
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

    Another number than 8 starts evenly over the same part of the walk. Cores are at least two
    points apart: a core that starts one point after another is always at the same point with it,
    and is that core.

    Raises
    ------
    InputError
        If they do not fit the grid.
    """
    steps = grid.steps
    if starts:
        t = (*starts, steps)
        if len(starts) != cores:
            raise InputError(
                f"--starts has {len(starts)} points and --cores is {cores}: give one of the two"
            )
        if starts[0] != 0 or any(b - a < 2 for a, b in pairwise(t)):
            raise InputError(
                f"--starts {','.join(map(str, starts))} must begin with 0 and rise by 2 or more, "
                f"up to {steps - 2} at most, as there are {steps} steps"
            )
        return starts
    if steps < 2 * cores:
        raise InputError(
            f"--cores {cores} is too many for {steps} steps: cores start two steps apart or more, "
            f"so at most {steps // 2} have room"
        )
    even = [PUBLISHED[-1] * c / cores for c in range(cores)]
    t = ()
    for c, start in enumerate(PUBLISHED if cores == len(PUBLISHED) else even):
        least, most = (t[-1] + 2 if t else 0), steps - 2 * (cores - c)
        t = (*t, min(max(round(start * steps / 50), least), most))
    return t


def columns(grid: TimeGrid, *, cores: int, starts: tuple[int, ...]) -> int:
    """Columns of a checkpoint: the cores."""
    return len(starts_of(grid, cores=cores, starts=starts))


def refuse(problem: Problem, *, cores: int, starts: tuple[int, ...]) -> None:
    """Refuse a solver whose step can't be made longer with one stored evaluation, and idle ranks.

    Raises
    ------
    InputError
        Where that is so, or where a jump does not give finite numbers.
    """
    solver, name = problem.fine.solver, problem.fine.name
    if solver.history or solver.stochastic or solver.evaluations > 1 or not solver.starts_here:
        raise InputError(
            f"--method chords jumps with one evaluation that it has already, and {name} carries a "
            "history, draws noise or evaluates more than once in a step: take a solver that does "
            "not, as ddim, euler or flow_euler"
        )
    if problem.ranks > cores:
        raise InputError(
            f"{problem.ranks} ranks for {cores} cores: every rank needs at least one core, so "
            "raise --cores or start fewer ranks"
        )
    t = (*starts_of(problem.grid, cores=cores, starts=starts), problem.grid.steps)
    over = TimeGrid(tuple(problem.grid.levels[i] for i in t), tuple(range(len(t))))
    try_walk(replace(problem.fine, grid=over), "coarse")


CHORDS = Method(
    chords,
    options={"cores": 8, "starts": ()},
    own=1,
    columns=columns,
    check=refuse,
)
"""The method."""
