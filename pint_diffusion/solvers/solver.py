"""What a solver is: a step from one noise level to the next, and what is known about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid import Level, Schedule, level_of_sigma
from pint_diffusion.numerics.prediction import Prediction

Evaluate: TypeAlias = Callable[[Tensor, Level], Awaitable[Prediction]]
"""Await it for what the network sees in states (S, *shape) at a level."""

Past: TypeAlias = tuple[Tensor, ...]
"""What a multistep solver carries from step to step, (S, *shape) each, newest first."""


SHORT_WALK = 15
"""Walks of fewer steps end with lower orders."""


@dataclass(frozen=True)
class Stride:
    """One step of a walk, and where in the walk it is.

    Attributes
    ----------
    levels : tuple of Level
        All levels of the walk.
    i : int
        The step goes from ``levels[i]`` to ``levels[i + 1]``.
    schedule : Schedule
        What the levels lie on.
    noise : callable
        Returns the step's standard normal noise (S, *shape), the same in every iteration.
    """

    levels: tuple[Level, ...]
    i: int
    schedule: Schedule
    noise: Callable[[], Tensor]

    @property
    def here(self) -> Level:
        """Where the step begins."""
        return self.levels[self.i]

    @property
    def there(self) -> Level:
        """Where the step ends, a cleaner level."""
        return self.levels[self.i + 1]

    @property
    def steps(self) -> int:
        """Number of steps of the walk."""
        return len(self.levels) - 1

    @property
    def left(self) -> int:
        """Steps from here to the end of the walk, this one included."""
        return self.steps - self.i

    def level(self, sigma: float) -> Level:
        """Return the level with noise level ``sigma`` = s / a, for stages inside a step.

        Raises
        ------
        InputError
            If it is noisier than the noisiest level of the schedule.
        """
        return level_of_sigma(self.schedule, sigma)

    def highest_order(self, wanted: int) -> int:
        """Return the order that a multistep step may have, for where it is in the walk.

        A step into clean data is infinitely long in lam and has first order. Walks of fewer than
        15 steps end with order 2 and then 1, as the code of DPM-Solver does.
        """
        if self.there.sigma == 0:
            return 1
        return min(wanted, self.left) if self.steps < SHORT_WALK else wanted


Step: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]
"""``step(evaluate, x, stride, **options)`` of a one-step solver returns x' (S, *shape);
``step(evaluate, x, past, stride, **options)`` of a multistep solver returns x' and the new `Past`.

The result is a function of the arguments only.
"""


def merge_options(
    kind: str, name: str, options: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of a solver or a method with those set that the user gave.

    Raises
    ------
    InputError
        If it has no such option.
    """
    for option in given:
        if option not in options:
            flag = option.replace("_", "-")
            has = ", ".join("--" + o.replace("_", "-") for o in options) or "none"
            raise InputError(f"--{flag} is no option of the {kind} {name}, which has: {has}")
    return {**options, **given}


@dataclass(frozen=True)
class Solver:
    """A step and its properties.

    Attributes
    ----------
    step : Step
        The map, see `Step`.
    order : int
        Order of accuracy in the step size inside a walk; a multistep solver's first steps, and
        the last ones of some, have lower orders. For stochastic solvers that of the mean.
    evaluations : int
        Network evaluations per step; a last step into clean data may take fewer.
    noise : bool or str
        Whether steps draw noise; the name of an option: if that is greater than zero.
    shifted : bool or str
        Whether the first evaluation of a step is of another state than its start, or at another
        level; the name of an option: if that is greater than zero.
    history : int
        Tensors carried from step to step, one more after each step until they are so many; 0 for a
        one-step solver.
    options : mapping
        Keyword arguments of the step and their values.
    """

    step: Step
    order: int = 1
    evaluations: int = 1
    noise: bool | str = False
    shifted: bool | str = False
    history: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise, with the options as they are."""
        return self._holds(self.noise)

    @property
    def starts_here(self) -> bool:
        """Whether the first evaluation of a step is of its start state at its first level."""
        return not self._holds(self.shifted)

    def _holds(self, fact: bool | str) -> bool:
        return bool(self.options[fact] > 0) if isinstance(fact, str) else fact

    def carried(self, steps: int) -> int:
        """Number of tensors carried after ``steps`` steps in a row."""
        return min(self.history, steps)

    def configured(self, name: str, given: Mapping[str, Any]) -> Solver:
        """Return the solver with options set.

        Raises
        ------
        InputError
            If it has no such option.
        """
        return replace(self, options=merge_options("solver", name, self.options, given))

    def with_options(self) -> Step:
        """Return the step with its options filled in."""
        return partial(self.step, **self.options) if self.options else self.step
