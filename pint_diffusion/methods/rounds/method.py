"""What methods in rounds have in common: a window of points, evaluated at once, and a sweep."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from pint_diffusion.errors import InputError
from pint_diffusion.grid import TimeGrid
from pint_diffusion.methods.method import Method, Start
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.rounds.engine import rounds
from pint_diffusion.methods.rounds.sweep import Sweep


class MethodInRounds(Method):
    """A method whose iterations are rounds over a window of grid points.

    A checkpoint of a round has a column for every point that a window may have, and a round is
    all that the next one needs.
    """

    counts: ClassVar[Literal["changes", "points"]] = "points"
    retires: ClassVar[bool] = False
    column: ClassVar[str] = "point"

    @abstractmethod
    def sweep(self, problem: Problem) -> Sweep:
        """Make what turns a window of evaluated points into new states."""
        raise NotImplementedError(f"{type(self).__name__} has no sweep")

    def prepare(self, problem: Problem) -> Start:
        """Return what starts the rounds of a rank."""
        return rounds(self.sweep(problem), problem)

    def enough_iterations(self, grid: TimeGrid) -> int:
        """Return N: every round makes one point final, at least."""
        return grid.steps

    def held_states(self, steps: int, slices: int, ranks: int, history: int) -> int:
        """Return the states of a window: as they were, as they become, and what was seen."""
        columns = 1 + history + self.extra_tensors
        return self.most_points(steps, slices) * (2 * columns + 4)

    @abstractmethod
    def most_points(self, steps: int, slices: int) -> int:
        """Return the most points of a window, of N steps in M slices."""


class MethodWithWindow(MethodInRounds):
    """A method in rounds whose window slides over the points of the whole grid."""

    window: PositiveInt = Field(32, description="most points evaluated at once")

    def columns(self, grid: TimeGrid) -> int:
        """Return the points of a window."""
        return self.most_points(grid.steps, grid.slices)

    def most_points(self, steps: int, slices: int) -> int:
        """Return the points of a window."""
        return min(self.window, steps)


def refuse_history(method: Method, problem: Problem, why: str) -> None:
    """Refuse a solver that carries a history, for a method that needs a step of one state.

    Raises
    ------
    InputError
        If the solver carries one.
    """
    solver = problem.fine.solver
    if solver.multistep:
        raise InputError(
            f"the method {method.name} {why}, and the solver {solver.name} carries a history: take "
            "another solver or method"
        )
