"""What a solver is: a step from one noise level to the next, and what is known about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from pydantic import Field
from torch import Tensor

from pint_diffusion.grid import Level, Schedule, level_of_sigma
from pint_diffusion.numerics.prediction import Prediction
from pint_diffusion.options import Options

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
    draw : callable
        Draws number j -> standard normal noise (S, *shape), the same in every iteration; a step
        has the number i, and its second draw the number N + i.
    """

    levels: tuple[Level, ...]
    i: int
    schedule: Schedule
    draw: Callable[[int], Tensor]

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

    def noise(self, draw: int = 0) -> Tensor:
        """Return a noise of the step, (S, *shape): standard normal, each draw independent."""
        return self.draw(self.i + draw * self.steps)

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


class Solver(Options):
    """One step from noise level to noise level, with its options; a subclass is a solver.

    ``await solver.step(evaluate, x, stride)`` of a one-step solver returns x' (S, *shape), and
    ``await solver.step(evaluate, x, past, stride)`` of a multistep solver x' and the new `Past`.
    The result is a function of the arguments only.

    Attributes
    ----------
    order : int
        Order of accuracy in the step size inside a walk; a multistep solver's first steps, and
        the last ones of some, have lower orders. For stochastic solvers that of the mean.
    evaluations : int
        Network evaluations per step; a last step into clean data may take fewer.
    history : int
        Tensors carried from step to step, one more after each step until they are so many; 0 for a
        one-step solver.
    """

    kind: ClassVar[str] = "solver"
    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    history: ClassVar[int] = 0

    async def step(self, evaluate: Evaluate, x: Tensor, *where: Any) -> Any:
        """Make one step of states x (S, *shape)."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise, with the options as they are."""
        return False

    @property
    def multistep(self) -> bool:
        """Whether a step depends on the steps before it."""
        return self.history > 0

    @property
    def starts_here(self) -> bool:
        """Whether the first evaluation of a step is of its start state at its first level."""
        return True

    @property
    def crosses(self) -> bool:
        """Whether history crosses slice boundaries."""
        return True

    def carried(self, steps: int) -> int:
        """Number of tensors carried after ``steps`` steps in a row."""
        return min(self.history, steps)


class Multistep(Solver):
    """A solver whose step uses what the steps before it have seen."""

    carry: bool = Field(
        True,
        description="know at the start of a slice what the sequential walk would know there, and "
        "not nothing",
    )

    @property
    def crosses(self) -> bool:
        """Whether history crosses slice boundaries."""
        return self.carry
