"""The Picard engine: all points of a window are evaluated at once, and then swept over.

Grid points i = 0 .. N, rounds k. Sample s has a window of its own, points b_s, b_s + 1, ..., and
its state at b_s is final. One round:

    evaluate   slot j is one evaluation of all samples, each at its own point b_s + j;
               slots are dealt out over the ranks
    exchange   every rank gets what the network returned for every slot
    sweep      every rank makes the same new states of the same numbers, point after point

All numbers of a round stay on the device. The host waits for one of them: how many points each
sample's window slides by. From this it knows where everything lies in the next round, and sends
that in one copy.

What a sweep takes the network to say of a state that has moved, when it calls a point done, and
where it begins beyond the points evaluated, is all that the methods differ in: see `Sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.rows import (
    Asked,
    Ints,
    Places,
    Rows,
    Windows,
    by_point,
    by_slot,
    in_order,
    steps,
)
from pint_diffusion.methods.rounds.sweep import Seen, Sweep, Tables
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.numerics.levels import to_device
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.runtime.requests import Ask, Layout, Together
from pint_diffusion.runtime.scheduler import Runtime


def rounds(sweep: Sweep, problem: Problem) -> Callable[[Runtime], None]:
    """Make ready what a rank needs; return what starts its coroutine on its runtime."""
    tables = Tables(problem.fine, problem.responses(), problem.noise.device)

    def start(runtime: Runtime) -> None:
        runtime.spawn(runtime.rank, Rounds(sweep, tables, problem, runtime).run)

    return start


class Rounds:
    """The rounds of a run, as one rank makes them.

    Parameters
    ----------
    sweep : Sweep
        The method.
    tables : Tables
        Of the fine walk.
    problem : Problem
        What is sampled.
    runtime : Runtime
        Of this rank.
    """

    def __init__(self, sweep: Sweep, tables: Tables, problem: Problem, runtime: Runtime) -> None:
        self.sweep, self.runtime, self.problem = sweep, runtime, problem
        self.walk, self.noise = problem.fine, problem.noise
        self.steps, self.samples = self.walk.grid.steps, len(problem.noise)
        self.device = problem.noise.device
        self.parts = 1 + self.walk.solver.history
        self.tables = tables
        self.stages = self.tables.responses.stages
        shape = (self.stages, self.samples, *problem.output_shape)
        outputs = Layout(shape, self.noise.dtype, self.device)
        ranks = list(range(problem.ranks))
        self.said = runtime.cells(outputs, lambda j: j % len(ranks), lambda j: ranks)
        last = [problem.columns] if runtime.rank == 0 else []
        kept = [*range(runtime.rank, problem.columns, problem.ranks), *last]
        runtime.keeps(lambda k: kept)
        self.nothing = torch.full_like(self.noise, torch.nan)[None, None]

    async def run(self) -> None:
        """Make rounds until every sample has arrived; rank 0 finishes the run."""
        problem, runtime, restart = self.problem, self.runtime, self.problem.restart
        changes = list(restart.changes) if restart else []
        k = len(changes)
        windows = self.restored(changes) if restart else self.first()
        preview = restart.state(problem.columns)[0] if restart else self.noise
        places, _ = self.placed(windows.begin, windows.length)
        while True:
            self.keep(k, windows, preview)
            if runtime.rank == 0:
                told = changes[-1] if changes else None
                if await runtime.answer(k, preview, told):
                    break
            if (windows.begin == self.steps).all() or k >= problem.max_iterations:
                break
            k += 1
            await self.evaluate(k, windows, places)
            returned = [await self.said[j, k] for j in places.all.slots]
            seen = self.look(windows, places, torch.stack(returned))  # type: ignore[arg-type]
            windows, places, preview = self.slide(windows, seen, preview)
            if (windows.begin == self.steps).all():
                preview = self.problem.shown(windows.states[: self.parts, 0])
            changes.append(windows.begin.astype(np.float64))
        if runtime.rank == 0:
            runtime.finish(self.outcome(k, changes))

    def first(self) -> Windows:
        """Return the windows at the noise."""
        count = self.end_of(0, 0)
        begun = self.sweep.start(self.walk, self.noise, count)
        states = torch.cat([begun, self.no_point(self.sweep.extra_tensors, count)])
        return Windows(np.zeros(self.samples, np.int64), np.full(self.samples, count), states)

    def restored(self, changes: list[NDArray[np.float64]]) -> Windows:
        """Return the windows of a checkpoint."""
        restart = self.problem.restart
        assert restart is not None
        states = torch.stack([restart.state(j) for j in range(self.problem.columns)], dim=1)
        there = ~torch.isnan(states[0].flatten(2)).any(dim=2).cpu().numpy()
        length = there.sum(axis=0)
        begin = changes[-1].astype(np.int64) if changes else np.zeros(self.samples, np.int64)
        return Windows(begin, length, states[:, : int(length.max())])

    def end_of(self, begin: int, evaluated: int) -> int:
        """Return the point before which a window ends; its last one is N for one that is there."""
        if begin == self.steps:
            return begin + 1
        return min(max(self.sweep.reach(begin, evaluated), begin + 1), self.steps)

    def no_point(self, parts: int, slots: int) -> Tensor:
        """Return a part of states where there is no point."""
        return self.nothing.expand(parts, slots, *self.noise.shape)

    # ---- a round ---------------------------------------------------------------------------

    async def evaluate(self, k: int, windows: Windows, places: Places) -> None:
        """Evaluate this rank's slots, and give every rank what the network returned."""
        rows, count = places.mine, len(places.mine.slots)
        if not rows.slots:
            return
        mine = windows.states[: self.parts, rows.slots[0] : rows.slots[-1] + 1 : self.problem.ranks]
        x, *past = by_point(mine, places.mine_order)
        if self.stages == 1 and self.walk.solver.starts_here:  # the network is asked for x itself
            levels = [self.walk.grid.levels[group.i] for group in rows.groups]
            asked = Asked(x, levels, [True] * len(levels))
        else:
            walks = steps(self.walk, rows, x, tuple(past))
            asked = next(walks)
        returned: list[Tensor] = []
        for stage in range(self.stages):
            seen = await self.ask(k, places, asked, last=stage + 1 == self.stages)
            assert seen.output is not None
            returned.append(seen.output.view(count, self.samples, *seen.output.shape[1:]))
            if stage + 1 == self.stages:
                break
            known = (
                None if one is None else in_order(one, 0, places.mine_order) for one in seen[:3]
            )
            try:
                asked = walks.send(Prediction(*known))  # type: ignore
            except StopIteration:
                break
        missing = [torch.zeros_like(returned[0])] * (self.stages - len(returned))
        slots = torch.stack([*returned, *missing], dim=1).unbind()
        for j, output in zip(rows.slots, slots, strict=True):
            self.said[j, k] = output

    async def ask(self, k: int, places: Places, asked: Asked, last: bool) -> Prediction:
        """Ask for what a stage of the steps waits for; return it by slot and sample.

        A network call has the rows that the sequential sampler's calls have, in the same order;
        samples that have no such point are shown their noise again. A slot none of whose steps
        asks for anything is not evaluated, and zeros stand for it. Of the last stage only the
        output is returned.
        """
        rows = places.mine
        whole = by_slot(asked.x[None], rows, places.mine_places, self.noise[None])[0].unbind()
        levels = rows.level_list(asked.levels, self.walk.grid.levels[0])
        asking = rows.asking(asked.open)
        seen = await Together(
            [
                Ask("fine", rows.slots[at], k - 1, place=f"round {k}", needed_by=k).rows(
                    whole[at], levels[at]
                )
                for at in asking
            ]
        )
        known = dict(zip(asking, seen, strict=True))
        parts: list[Tensor | None] = []
        for part, one in enumerate(seen[0]):
            if one is None or (last and one is not seen[0].output):
                parts.append(None)
                continue
            silent = torch.zeros_like(one) if len(asking) < len(rows.slots) else one
            every = (known[at][part] if at in known else silent for at in range(len(rows.slots)))
            parts.append(torch.cat(list(every)))  # type: ignore[arg-type]
        return Prediction(*parts)  # type: ignore[arg-type]

    @torch.inference_mode()
    def look(self, windows: Windows, places: Places, returned: Tensor) -> Seen:
        """Make the solver's own steps of what the network returned, (L, Q, S, *shape)."""
        rows, order = places.all, places.all_order
        states = windows.states[:, : len(rows.slots)]
        x, *past = by_point(states[: self.parts], order)
        outputs = by_point(returned.transpose(0, 1), order)
        at = places.points if order is None else places.points.index_select(0, order)
        levels = self.tables.levels.index_select(0, at).to(x.dtype)
        levels = levels.view(*levels.shape, *[1] * (x.ndim - 1))
        walks = steps(self.walk, rows, x, tuple(past))
        asked, first = next(walks), None
        for stage in range(self.stages):
            a, s = levels[:, 0, stage], levels[:, 1, stage]
            seen = self.problem.seen(asked.x, outputs[stage], a, s)
            first = first or (asked.x, *seen[:3])
            try:
                asked = walks.send(seen)
            except StopIteration as done:
                after = done.value
                break
        assert first is not None
        known = [*after, *(one for one in first if one is not None)]
        whole = by_slot(torch.stack(known), rows, places.all_places, self.nothing[0])
        after, (asked_x, x0, eps, *variance) = whole[: self.parts], whole[self.parts :].unbind()
        points = places.points.view(len(rows.slots), self.samples)
        remake = self.problem.remake([group.i for group in rows.groups], returned[:, 0])
        known_of = points, states, after, asked_x, x0, eps
        return Seen(self.tables, *known_of, variance[0] if variance else None, remake)

    @torch.inference_mode()
    def slide(
        self, windows: Windows, seen: Seen, preview: Tensor
    ) -> tuple[Windows, Places, Tensor]:
        """Sweep, and let every window slide over what has settled."""
        swept, sweep = self.sweep(seen), self.sweep
        begin, length, slots = windows.begin, windows.length, seen.slots
        under_way = begin < self.steps
        settled = [0] * self.samples if swept.settled is None else swept.settled.tolist()
        if self.problem.together:
            settled = [min(settled)] * self.samples
        slid = np.array(
            [
                sweep.slide(b, c) if b < self.steps else 0
                for b, c in zip(begin.tolist(), settled, strict=True)
            ]
        )
        fresh = np.where(under_way, begin + length, self.steps)  # first point not evaluated
        first = begin + slid
        end = np.array(
            [self.end_of(b, e) for b, e in zip(first.tolist(), fresh.tolist(), strict=True)]
        )
        opened = range(0)
        if sweep.predicts and (more := end - 1 > fresh).any():
            opened = range(int(fresh[more].min()), int(end[more].max()) - 1)
        point = first + np.arange(int((end - first).max()))[:, None]
        row = np.minimum(point, fresh) - begin
        if opened:
            row = np.where(point > fresh, slots + point - opened.start, row)
        row = np.where(point < end, row, slots + 1 + len(opened))
        steps_ahead = np.array(opened, dtype=np.int64)[:, None]
        ahead = (steps_ahead >= fresh) & (steps_ahead < end - 1)
        every, rows = np.arange(self.samples), np.maximum(length - 1, 0)
        places, (index, shown, arrived, open_) = self.placed(
            first,
            end - first,
            [
                row * self.samples + every,
                np.minimum(slid, rows) * self.samples + every,
                first == self.steps,
                ahead,
            ],
        )
        shape = (self.parts + sweep.extra_tensors, slots + 2 + len(opened), *swept.states.shape[2:])
        states = swept.states.new_full(shape, torch.nan)
        states[: self.parts, : slots + 1] = swept.states
        states[self.parts :, :slots] = swept.own
        if opened:
            mask = None if ahead.all() else open_.bool().view(-1, self.samples)
            predicted = torch.stack(sweep.ahead(seen, swept, opened, mask), dim=1)
            states[: self.parts, slots + 1 : -1] = predicted
        states = states.flatten(1, 2).index_select(1, index)
        states = states.view(len(states), *point.shape, *self.noise.shape[1:])
        if self.runtime.rank == 0:
            x0 = seen.x0.flatten(0, 1).index_select(0, shown)
            arrived = arrived.bool().view(-1, *[1] * (x0.ndim - 1))
            preview = torch.where(arrived, states[0, 0], x0)
        return Windows(first, end - first, states), places, preview

    def placed(
        self, begin: Ints, length: Ints, more: Sequence[NDArray[Any]] = ()
    ) -> tuple[Places, list[Tensor]]:
        """Find where everything is in the next round, and send it and ``more`` to the device."""
        length = np.where(begin < self.steps, length, 0)
        slots, rank = range(int(length.max())), self.runtime.rank
        every = mine = Rows.of(begin, length, slots)
        if self.problem.ranks > 1:
            mine = Rows.of(begin, length, slots[rank :: self.problem.ranks])
        at = np.arange(len(slots))[:, None]
        arrays = [np.where(at < length, begin + at, self.steps), *more]
        if not every.straight:  # else both orders are one
            noises = np.where(mine.absent, len(mine.order) + np.arange(self.samples), mine.places)
            arrays += [mine.order, noises, every.order, every.places]
        flat = np.concatenate([array.ravel() for array in arrays], dtype=np.int64)
        sent = to_device(torch.from_numpy(flat), self.device).split([a.size for a in arrays])
        more_sent = list(sent[1 : 1 + len(more)])
        return Places(mine, every, sent[0], *sent[1 + len(more) :]), more_sent

    # ---- what is kept ----------------------------------------------------------------------

    def keep(self, k: int, windows: Windows, preview: Tensor) -> None:
        """Record the checkpoint of round ``k``; NaN stands for points beyond a window."""
        columns, states = self.problem.columns, windows.states.unbind(1)
        for j in range(self.runtime.rank, columns, self.problem.ranks):
            slot = states[j] if j < len(states) else self.no_point(len(windows.states), 1)[:, 0]
            self.runtime.keep(j, k, slot)
        if self.runtime.rank == 0:
            self.runtime.keep(columns, k, preview[None].clone())  # no inference tensor

    def outcome(self, k: int, changes: list[NDArray[np.float64]]) -> Outcome:
        """Return how the run has ended."""
        reached = np.array(changes).reshape(k, self.samples)
        there = reached == self.steps
        stopped_at = np.where(there.any(axis=0), (~there).sum(axis=0) + 1, 0).astype(np.int32)
        all_there = bool(stopped_at.all())
        exact = all_there and self.problem.tolerance == 0
        return Outcome(k, all_there, exact, reached, stopped_at)
