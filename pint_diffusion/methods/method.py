"""What a sampling method is: how it is started, its options, and what its iterations are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pint_diffusion.grid import TimeGrid
from pint_diffusion.methods.problem import Problem
from pint_diffusion.solvers.solver import merge_options


def slices(grid: TimeGrid, **_: Any) -> int:
    """Columns of a method whose checkpoint is a state for every slice."""
    return grid.slices


def points(grid: TimeGrid, *, window: int, **_: Any) -> int:
    """Columns of a method whose checkpoint is a state for every point of a window."""
    return min(window, grid.steps)


def takes_all(problem: Problem, **_: Any) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class Method:
    """A sampling method and its properties.

    Attributes
    ----------
    start : callable
        ``start(runtime, problem, **options)`` starts the coroutines of a rank.
    options : mapping
        Keyword arguments of `start` and their values.
    tolerance : float
        Tolerance if the user gives none.
    unit : str
        What the tolerance is compared with.
    rounds : bool
        Iterations are rounds over windows of grid points. Then what is known of an iteration is
        how many points every sample has behind it, and not how far the answer has moved; at most N
        are made, not M; and an iteration's checkpoint has all columns.
    columns : callable
        ``columns(grid, **options)``: tensors n = 0, 1, ... that a checkpoint of one iteration has.
        If the iterations are no rounds, it is also the iteration at which the answer is exact, and
        columns n < k are done with at iteration k.
    own : int
        Of a method that is not in rounds: tensors in a column beside x and the solver's history.
    check : callable
        ``check(problem, **options)`` raises InputError if it can't solve a problem.
    """

    start: Callable[..., None]
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 0.1
    unit: str = "/ 255"
    rounds: bool = False
    columns: Callable[..., int] = slices
    own: int = 0
    check: Callable[..., None] = takes_all

    def configured(self, name: str, given: Mapping[str, Any]) -> Method:
        """Return the method with options set.

        Raises
        ------
        InputError
            If it has no such option.
        """
        return replace(self, options=merge_options("method", name, self.options, given))

    @property
    def sliced(self) -> bool:
        """Whether it is slices that ranks own, so that there must be one for each."""
        return self.columns is slices

    def most(self, grid: TimeGrid) -> int:
        """Return the iterations after which the answer is exact."""
        return grid.steps if self.rounds else self.columns(grid, **self.options)
