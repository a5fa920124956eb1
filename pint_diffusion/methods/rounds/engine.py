"""The Picard engine: all points of a window are evaluated at once, and then swept over.

Grid points i = 0 .. N, rounds k. Sample s has a window of its own, points b_s, b_s + 1, ..., and
its state at b_s is final. One round:

    evaluate   slot j is one evaluation of all samples, each at its own point b_s + j;
               slots are dealt out over the ranks
    exchange   every rank gets what the network returned for every slot
    sweep      every rank makes the same new states of the same numbers, point after point

The sweep makes the solver's own steps once more, with what the network said of the *last* states
instead of evaluations. Of a state that has not moved it is told what was seen, to the bit, so a
sweep that moves nothing has found the trajectory of the sequential sampler, to the bit.

What a sweep takes the network to say of a state that has moved, when it calls a point done, and
where it begins beyond the points evaluated, is all that the methods differ in: see `Sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.tape import Lane, record
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.runtime.requests import Ask, Layout
from pint_diffusion.runtime.scheduler import Runtime
from pint_diffusion.solvers.linear import most_evaluations


class Sweep(Protocol):
    """A method of the Picard family. It keeps nothing from call to call.

    Attributes
    ----------
    own : int
        E, tensors that it keeps with every state.
    """

    own: int

    def stop(self, begin: int) -> int:
        """Return the point before which a window must end that begins at ``begin``."""
        ...

    def start(self, lane: Lane) -> list[Tensor]:
        """Return the states of the first window; ``lane`` has that of point 0."""
        ...

    def __call__(self, lane: Lane) -> tuple[list[Tensor], Sequence[int]]:
        """Sweep.

        Returns
        -------
        states : list of Tensor
            New states of the points begin, begin + 1, ..., as far as they are known, at least one
            more than were evaluated. A window is as long as they reach.
        done : sequence of int, length s
            Points that each sample's window slides by. A method that lets it be zero must say
            otherwise after as many sweeps as the window has points.
        """
        ...


class Window(NamedTuple):
    """The window of one sample: where it begins, (1 + H + E, 1, *shape) for each of its points."""

    begin: int
    sweeps: int
    states: list[Tensor]


def rounds(sweep: Sweep, problem: Problem) -> Callable[[Runtime], None]:
    """Return what starts the coroutines of a rank on its runtime."""
    return partial(picard, sweep, problem)


def picard(sweep: Sweep, problem: Problem, runtime: Runtime) -> None:
    """Start the coroutines of this rank."""
    walk, columns = problem.fine, problem.columns
    steps, samples, ranks = walk.grid.steps, len(problem.noise), range(problem.ranks)
    outputs = Layout(
        (most_evaluations(walk), samples, *problem.output_shape),
        problem.noise.dtype,
        problem.noise.device,
    )
    said = runtime.cells(outputs, lambda j: j % len(ranks), lambda j: list(ranks))
    kept = runtime.cells(outputs, lambda rank: rank, lambda rank: [0])

    def end_of(begin: int) -> int:
        return min(max(sweep.stop(begin), begin + 1), steps if begin < steps else steps + 1)

    def lane(begin: int, rows: list[int], windows: list[Window]) -> Lane:
        mine = [windows[s] for s in rows]
        states = [torch.cat(slot, dim=1) for slot in zip(*(w.states for w in mine), strict=True)]
        return Lane(walk.of_samples(rows), begin, mine[0].sweeps + 1, states, [])

    def first() -> list[Window]:
        empty = Lane(walk, 0, 0, [], [])
        own = [torch.zeros_like(problem.noise)] * sweep.own
        begun = replace(empty, states=[empty.pack(problem.noise, (), own)])
        states = sweep.start(begun)[: end_of(0)]
        return [Window(0, 0, [state[:, s : s + 1] for state in states]) for s in range(samples)]

    def restored(changes: list[NDArray[np.float64]]) -> list[Window]:
        assert problem.restart is not None
        slots = [problem.restart.state(j) for j in range(columns)]
        windows = []
        for s in range(samples):
            begins = [0, *(int(row[s]) for row in changes)]
            here = next(i for i, begin in enumerate(begins) if begin == begins[-1])
            states = [slot[:, s : s + 1] for slot in slots if not torch.isnan(slot[0, s]).any()]
            windows.append(Window(begins[-1], len(begins) - 1 - here, states))
        return windows

    async def look(j: int, k: int, rows: list[tuple[int, Tensor]]) -> None:
        """Evaluate slot ``j``: for each sample a point and its state."""
        points: dict[int, list[int]] = {}
        for s, (i, _) in enumerate(rows):
            points.setdefault(i, []).append(s)
        walks = {}
        for i, group in points.items():
            state = torch.cat([rows[s][1] for s in group], dim=1)
            past = tuple(state[1 : 1 + walk.carried_at(i)])
            walks[tuple(group)] = walk.of_samples(group).step(Question, state[0], past, i)
        ask = Ask("fine", j, k - 1, place=f"round {k}")
        said[j, k] = await evaluate_together(ask, walks, outputs)

    async def rounds() -> None:
        restart = problem.restart
        changes = list(restart.changes) if restart else []
        k = len(changes)
        windows = restored(changes) if restart else idle
        preview = restart.state(columns)[0] if restart else problem.noise
        while True:
            keep(k, windows, preview)
            if runtime.rank == 0:
                told = changes[-1] if changes else None
                if await runtime.answer(k, preview, told):
                    return runtime.finish(outcome(k, changes))
            under_way = [window for window in windows if window.begin < steps]
            if not under_way or k >= problem.max_iterations:
                break
            k += 1
            slots = max(len(window.states) for window in under_way)
            for j in range(slots):
                runtime.spawn(j % len(ranks), look, j, k, rows_of(j, windows))
            windows, preview = swept(windows, preview, [await said[j, k] for j in range(slots)])
            changes.append(np.array([float(window.begin) for window in windows]))
        kept[runtime.rank, k] = None
        if runtime.rank == 0:
            for rank in ranks:
                await kept[rank, k]  # else some rank might be stopped before its last checkpoint
            runtime.finish(outcome(k, changes))

    def rows_of(j: int, windows: list[Window]) -> list[tuple[int, Tensor]]:
        """Return point and state of every sample in slot ``j``; the idle are shown noise again."""
        there = [w.begin < steps and j < len(w.states) for w in windows]
        return [
            (w.begin + j, w.states[j]) if here else (0, idle[s].states[0])
            for s, (w, here) in enumerate(zip(windows, there, strict=True))
        ]

    def swept(
        windows: list[Window], preview: Tensor, returned: list[Tensor | None]
    ) -> tuple[list[Window], Tensor]:
        lanes: dict[tuple[int, int, int], list[int]] = {}
        for s, window in enumerate(windows):
            if window.begin < steps:
                key = window.begin, window.sweeps, len(window.states)
                lanes.setdefault(key, []).append(s)
        windows, preview = list(windows), preview.clone()
        for (begin, sweeps, _), rows in lanes.items():
            here = lane(begin, rows, windows)
            for j in range(len(here.states)):
                output = returned[j]
                assert output is not None
                here.tapes.append(record(here, j, output[:, rows], problem.kind))
            states, done = sweep(here)
            for at, (s, slid) in enumerate(zip(rows, done, strict=True)):
                reached = begin + slid
                still = states[slid : end_of(reached) - begin]
                mine = [state[:, at : at + 1] for state in still]
                windows[s] = Window(reached, 0 if slid else sweeps + 1, mine)
                seen = here.tapes[min(slid, len(here.tapes) - 1)].stages[0].seen
                preview[s] = states[slid][0, at] if reached == steps else seen.x0[at]
        return windows, preview

    def keep(k: int, windows: list[Window], preview: Tensor) -> None:
        """Record the checkpoint of round ``k``; NaN stands for points beyond a window."""
        nothing = torch.full_like(windows[0].states[0], torch.nan)
        for j in range(runtime.rank, columns, len(ranks)):
            slot = [w.states[j] if j < len(w.states) else nothing for w in windows]
            runtime.keep(j, k, torch.cat(slot, dim=1))
        if runtime.rank == 0:
            runtime.keep(columns, k, preview[None])

    def outcome(k: int, changes: list[NDArray[np.float64]]) -> Outcome:
        reached = np.array(changes).reshape(k, samples)
        there = reached == steps
        stopped_at = np.where(there.any(axis=0), there.argmax(axis=0) + 1, 0).astype(np.int32)
        all_there = bool(stopped_at.all())
        return Outcome(k, all_there, all_there and problem.tolerance == 0, reached, stopped_at)

    idle = first()
    for rank in ranks:
        runtime.spawn(rank, rounds)


class Question:
    """An evaluation that a step awaits."""

    __slots__ = ("level", "x")

    def __init__(self, x: Tensor, level: Level) -> None:
        self.x = x
        self.level = level

    def __await__(self) -> Generator[Question, Prediction, Prediction]:
        return (yield self)


async def evaluate_together(
    ask: Ask, walks: dict[tuple[int, ...], Coroutine[Any, Any, Any]], layout: Layout
) -> Tensor:
    """Drive the steps of groups of samples in lockstep, each evaluation one of all samples.

    So a network call has the rows that the sequential sampler's calls have, in the same order.

    Returns
    -------
    Tensor, ``layout``
        What the network returned, zero where a group's step has fewer stages than others.
    """
    walks = dict(walks)
    asked: dict[int, tuple[Tensor, Level]] = {}
    answers: dict[tuple[int, ...], Prediction | None] = dict.fromkeys(walks)
    returned = torch.zeros(layout.shape, dtype=layout.dtype, device=layout.device)
    for stage in returned:
        for group, walk in list(walks.items()):
            try:
                question = walk.send(answers[group])
            except StopIteration:
                del walks[group]
                continue
            for at, s in enumerate(group):
                asked[s] = question.x[at : at + 1], question.level
        if not walks:
            break
        rows = [asked[s] for s in sorted(asked)]
        seen = await ask.rows(torch.cat([x for x, _ in rows]), [level for _, level in rows])
        assert seen.output is not None
        stage.copy_(seen.output)
        for group in walks:
            part = (None if one is None else one[list(group)] for one in seen)
            answers[group] = Prediction(*part)  # type: ignore[arg-type]
    for walk in walks.values():
        walk.close()
    return returned
