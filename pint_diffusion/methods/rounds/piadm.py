"""PIADM: blocks of Picard iterations (Chen et al. 2024, arXiv 2405.15986).

The slices of the grid are the blocks. All points of a block begin as copies of its left boundary,
and all are evaluated in every round. With E what the network said of the last states Y, and the
solver's step made with E, moved from Y to the new states,

    Ynew_{m+1} = step(E_m, Ynew_m).

A block has ended when no inner point moved by more than the tolerance, root mean square, or, if a
number of sweeps is given, after these instead; the next one begins at its end. Points that are
exact, after k sweeps the first k, are not evaluated again.

Diagonal (Zhou & Sugiyama 2024, arXiv 2412.07435): every round one block more begins, at what is
then the end of the one before, while the blocks before it are still under way. The sweep runs
through all of them, so that a block has its new left boundary in the round in which it is made.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from pint_diffusion.errors import InputError
from pint_diffusion.grid import TimeGrid
from pint_diffusion.methods.method import Sliced
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.method import MethodInRounds
from pint_diffusion.methods.rounds.sweep import (
    Copies,
    Seen,
    Sweep,
    Swept,
    difference_sweep,
    leading,
)
from pint_diffusion.numerics.sums import mean_square
from pint_diffusion.solvers.response import Slope

Schedule = Literal["blocks", "diagonal"]
Freeze = Literal["x0", "eps", "score", "v", "increments"]

SLOPE_OF: dict[str, Slope | None] = {
    "x0": lambda level: 1 / level.s,
    "eps": lambda level: 0.0,
    "score": lambda level: 0.0,
    "v": lambda level: level.v_slope,
    "increments": None,
}
"""What is frozen, and the slope of eps that follows; at one level the score is eps to a factor."""


class Blocks(Copies):
    """The sweep.

    Parameters
    ----------
    problem : Problem
        Its tolerance is the greatest change of a point in a block that has ended, in half the data
        range.
    schedule : {"blocks", "diagonal"}
        Whether a block begins when the one before has ended, or a round later than it.
    freeze : {"x0", "eps", "score", "v", "increments"}, optional
        What the network's answer keeps when a state moves; x0 if the solver draws noise, else v.
    sweeps : int, optional
        Sweeps of every block, whatever moves, instead of the tolerance; on the diagonal at most as
        many as the first block has points.
    """

    def __init__(
        self, problem: Problem, *, schedule: Schedule, freeze: Freeze | None, sweeps: int | None
    ) -> None:
        self.bounds = problem.grid.bounds
        self.tolerance = problem.tolerance * problem.half_range
        self.diagonal = schedule == "diagonal"
        self.slope = SLOPE_OF[freeze or ("x0" if problem.fine.solver.stochastic else "v")]
        self.sweeps = sweeps

    def reach(self, begin: int, evaluated: int) -> int:
        """Return the end of the block, or of the last one that has begun."""
        return self._end(evaluated if self.diagonal else begin)

    def __call__(self, seen: Seen) -> Swept:
        """Sweep; see `Sweep`."""
        tables, response, kappa = seen.tables, None, None
        if self.slope is not None:
            response = tables.frozen(self.slope)[seen.points]
            kappa = tables.slopes(self.slope)[seen.points] if seen.remake else None
        states, moves = difference_sweep(seen, response, kappa)
        settled = None
        if self.sweeps is None:
            # With tolerance 0 nothing may have moved, also of what the solver carries.
            far = mean_square(moves if self.tolerance == 0 else moves[:1], 3)
            settled = leading((far <= self.tolerance**2).all(dim=0))
        return Swept(states, moves[:0], settled)

    def slide(self, begin: int, settled: int) -> int:
        """Return the points to slide by: one, which is exact, or blocks that have ended.

        A block has ended where all of its points but the last have settled.
        """
        if self.sweeps is not None:
            first = max(b for b in self.bounds if b <= begin)
            # On the diagonal a block has had one sweep more than the one behind it.
            ended = begin - first + 1 >= self.sweeps or (self.diagonal and first > 0)
            return self._end(begin) - begin if ended else 1
        return max([1, *(b - begin for b in self.bounds if b <= begin + settled)])

    def _end(self, i: int) -> int:
        """Return the end of the block in which point ``i`` is."""
        return next((b for b in self.bounds if b > i), i + 1)


class PIADM(Sliced, MethodInRounds):
    """PIADM: Picard sweeps over blocks, one after the other or staggered."""

    name: ClassVar[str] = "piadm"
    unit: ClassVar[str] = "of half the data range"
    ranks_own_slices: ClassVar[bool] = False

    schedule: Schedule = Field(
        "blocks",
        description="when a block begins: when the one before has ended (blocks), or a round later "
        "than it (diagonal)",
    )
    freeze: Freeze | None = Field(
        None,
        description="what of the network's answer stays while a sweep moves a state; x0 if the "
        "solver draws noise, else v",
    )
    sweeps: PositiveInt | None = Field(
        None, description="sweeps of every block, instead of the tolerance"
    )
    tolerance: float = Field(
        1e-3,
        ge=0,
        le=1e100,
        allow_inf_nan=False,
        description="how far a point may move in a round in a block that has ended, root mean "
        "square, in half the data range; with 0 the answer is exact",
    )

    @model_validator(mode="after")
    def _one_end_of_blocks(self) -> PIADM:
        if self.sweeps is not None and "tolerance" in self.changed:
            raise ValueError(
                f"`sweeps` {self.sweeps} ends every block whatever moves, and `tolerance` "
                f"{self.tolerance:g} when nothing moves by more: give one of the two"
            )
        return self

    def check(self, problem: Problem) -> None:
        """Refuse to freeze what is no single state."""
        solver = problem.fine.solver
        if self.freeze == "increments" and solver.multistep:
            raise InputError(
                f"`freeze` increments is for one-step solvers, and {solver.name} carries a "
                "history: freeze something else"
            )

    def columns(self, grid: TimeGrid) -> int:
        """Return the points of the longest block, or all on the diagonal."""
        if self.schedule == "diagonal":
            return grid.steps
        return max(end - first for first, end in pairwise(grid.bounds))

    def most_points(self, steps: int, slices: int) -> int:
        """Return the points of a block, or all on the diagonal."""
        return steps if self.schedule == "diagonal" else ceil(steps / slices)

    def held_states(self, steps: int, slices: int, ranks: int, history: int) -> int:
        """Return the states of a window; see `MethodInRounds`."""
        return MethodInRounds.held_states(self, steps, slices, ranks, history)

    def sweep(self, problem: Problem) -> Sweep:
        """Make the sweep."""
        return Blocks(problem, schedule=self.schedule, freeze=self.freeze, sweeps=self.sweeps)
