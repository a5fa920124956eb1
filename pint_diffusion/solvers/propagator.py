"""Propagators: walks over a slice, built of steps. F and G of Parareal are two of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pint_diffusion.grid import Level, Schedule, TimeGrid
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.solvers.solver import Evaluate, Past, Solver, Stride


@dataclass(frozen=True)
class Propagator:
    """A solver on a grid: it takes states from the start of a slice to its end.

    A state is (1 + H, S, *shape): x, and the H tensors that a multistep solver carries over slice
    boundaries. Which of these are there follows from the steps walked in a row.

    Attributes
    ----------
    solver : Solver
        Makes the steps.
    grid : TimeGrid
        Levels and slices.
    schedule : Schedule
        What the levels lie on.
    noise : callable
        Step i -> its noise (S, *shape).
    """

    solver: Solver
    grid: TimeGrid
    schedule: Schedule
    noise: Callable[[int], Tensor]

    @property
    def name(self) -> str:
        """The solver's name."""
        return self.solver.name

    @property
    def carry(self) -> bool:
        """Whether history crosses slice boundaries; else it starts anew in every slice."""
        return self.solver.crosses

    @property
    def history(self) -> int:
        """H, the number of tensors that a state has beside x."""
        return self.solver.history if self.carry else 0

    def bare(self, x: Tensor) -> Tensor:
        """Make a state (1 + H, S, *shape) of x, with the solver's H, that carries nothing."""
        return torch.cat([x[None], x.new_zeros((self.solver.history, *x.shape))])

    def start(self, x: Tensor) -> Tensor:
        """Make a state without history of x (S, *shape)."""
        return torch.cat([x[None], x.new_zeros((self.history, *x.shape))])

    def carried(self, n: int, k: int) -> int:
        """Number of tensors of u_n^k that are there.

        Coarse solves carry nothing, so those of iteration k begin at slice n - k.
        """
        bounds = self.grid.bounds
        return self.solver.carried(bounds[n] - bounds[max(n - k, 0)]) if self.carry else 0

    def carried_at(self, i: int) -> int:
        """Number of tensors carried at point ``i`` in a walk from the noise."""
        begun = 0 if self.carry else max(b for b in self.grid.bounds if b <= i)
        return self.solver.carried(i - begun)

    def of_samples(self, rows: Sequence[int]) -> Propagator:
        """Return the propagator of some of the samples only."""
        noise = self.noise
        return replace(self, noise=lambda i: noise(i)[list(rows)])

    def first_level(self, n: int) -> Level:
        """Level at which slice ``n`` begins."""
        return self.grid.levels[self.grid.bounds[n]]

    def last_level(self, n: int) -> Level | None:
        """Level of the last evaluation in slice ``n``, if that is known beforehand."""
        one_each = self.solver.evaluations == 1
        return self.grid.levels[self.grid.bounds[n + 1] - 1] if one_each else None

    def complete_from(self) -> int:
        """First iteration k made with all that is carried: F(u_n^{k-1}) has it for every n."""
        slices = range(self.grid.slices)
        k = 1
        while any(self.carried(n, k - 1) < self.carried(n, n) for n in slices):
            k += 1
        return k

    async def __call__(self, evaluate: Evaluate, state: Tensor, n: int, k: int) -> Tensor:
        """Walk a state (1 + H, S, *shape) of iteration ``k`` over slice ``n``."""
        x, past = state[0], tuple(state[1 : 1 + self.carried(n, k)])
        for i in range(self.grid.bounds[n], self.grid.bounds[n + 1]):
            x, past = await self.step(evaluate, x, past, i)
        if not self.history:
            return x[None]
        missing = [x.new_zeros(x.shape)] * (self.history - len(past))
        return torch.stack([x, *past, *missing])

    async def step(self, evaluate: Evaluate, x: Tensor, past: Past, i: int) -> tuple[Tensor, Past]:
        """Make step ``i`` of the grid on x (S, *shape); return x' and what is carried on."""
        if self.solver.history:
            return await self.solver.step(evaluate, x, past, self.stride(i))
        return await self.solver.step(evaluate, x, self.stride(i)), ()

    def stride(self, i: int) -> Stride:
        """Return where step ``i`` of the grid is."""
        return Stride(self.grid.levels, i, self.schedule, self.noise)

    def replay(
        self, known: Callable[[Tensor, Level], Prediction], x: Tensor, past: Past, i: int
    ) -> tuple[Tensor, Past]:
        """Make step ``i`` at once, with a network that is a function; else as `step`.

        Of ``past`` it takes what is carried at point ``i``: nothing where a slice starts anew.
        """

        async def evaluate(x: Tensor, level: Level) -> Prediction:
            return known(x, level)

        walk = self.step(evaluate, x, past[: self.carried_at(i)], i)
        try:
            walk.send(None)
        except StopIteration as done:
            return done.value
        raise RuntimeError("a step awaited something other than an evaluation")


def knowing(seen: Prediction, x: Tensor, level: Level, evaluate: Evaluate) -> Evaluate:
    """Like ``evaluate``, but what the network sees in ``x`` at ``level`` is known.

    Two propagators that start from one state need its evaluation only once.
    """

    async def recall(asked: Tensor, at: Level) -> Prediction:
        if at == level and asked.data_ptr() == x.data_ptr():
            return seen
        return await evaluate(asked, at)

    return recall
