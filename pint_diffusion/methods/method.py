"""What a sampling method is: its options, what its iterations are, and its coroutines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import ceil, isqrt
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from pint_diffusion.errors import InputError
from pint_diffusion.grid import TimeGrid
from pint_diffusion.methods.problem import Problem
from pint_diffusion.methods.times import rounds_on
from pint_diffusion.options import FREE, Options
from pint_diffusion.runtime.scheduler import Runtime

Start = Callable[[Runtime], None]
"""Starts the coroutines of a rank on its runtime."""

EXPECTED_ITERATIONS = 4
"""Iterations of Parareal that a run is taken to need where nobody says how many."""


class Method(Options):
    """A sampling method with its options; a subclass is a method.

    Attributes
    ----------
    unit : str
        What the tolerance is compared with.
    counts : {"changes", "points"}
        What is known of an iteration: how far each sample's answer moved, or how many points of
        the grid each sample has behind it.
    retires : bool
        Columns n < k of iteration k are final, and its checkpoint is without them. The columns of
        such a method are boundary states, which the files keep for every iteration.
    extra_tensors : int
        Tensors in a column beside x and the solver's history.
    column : str
        What column n of a checkpoint is of: a slice, a point or a core.
    uses_coarse : bool
        The method makes coarse solves.
    iterates : bool
        It has iterations that a run can be resumed after.
    """

    kind: ClassVar[str] = "method"
    unit: ClassVar[str] = "/ 255"
    counts: ClassVar[Literal["changes", "points"]] = "changes"
    retires: ClassVar[bool] = True
    extra_tensors: ClassVar[int] = 0
    column: ClassVar[str] = "slice"
    uses_coarse: ClassVar[bool] = False
    iterates: ClassVar[bool] = True

    tolerance: float = Field(
        0.1,
        ge=0,
        le=1e100,  # it is squared
        allow_inf_nan=False,
        json_schema_extra=FREE,
        description="a sample has converged when its values moved by less, on average, in one "
        "iteration, in 1/255 of the data range; with 0 the answer is exact",
    )
    max_iterations: PositiveInt | None = Field(
        None,
        json_schema_extra=FREE,
        description="most iterations; what is always enough if not given",
    )

    @property
    def begins_on(self) -> Path | None:
        """Folder of a run on whose trajectory the iteration begins."""
        return None

    @abstractmethod
    def prepare(self, problem: Problem) -> Start:
        """Make ready what is known before the clock starts; return what starts the coroutines."""
        raise NotImplementedError(f"{type(self).__name__} has no coroutines")

    def check(self, problem: Problem) -> None:
        """Refuse a problem that the method can't solve; on every rank, before the first message.

        Raises
        ------
        InputError
            If it can't.
        """

    def columns(self, grid: TimeGrid) -> int:
        """Return the columns n = 0, 1, ... of the checkpoint of an iteration."""
        return grid.slices

    def enough_iterations(self, grid: TimeGrid) -> int:
        """Return the iterations after which the answer is exact."""
        return self.columns(grid)

    def default_slices(self, steps: int, ranks: int) -> int:
        """Return the slices of N steps where nobody says how many."""
        return 1

    def held_states(self, steps: int, slices: int, ranks: int, history: int) -> int:
        """Return the boundary states that a rank holds at once, at least.

        Parameters
        ----------
        steps, slices, ranks : int
            N, M, and the ranks of the run.
        history : int
            Tensors that the solver carries.
        """
        return 2

    def seconds_on(
        self,
        devices: int,
        problem: Problem,
        iterations: int,
        in_a_row: Sequence[int],
        costs: Mapping[int, float],
    ) -> float | None:
        """Return the seconds of a run on so many devices if messages take no time.

        Parameters
        ----------
        devices : int
            P.
        problem : Problem
            What is solved.
        iterations : int
            That it took.
        in_a_row : sequence of int
            Evaluations that can be made at once, set after set.
        costs : mapping
            Evaluations in a call -> its seconds.

        Returns
        -------
        float or None
            None if that is not known.
        """
        return rounds_on(in_a_row, devices, costs)


class Sliced(Method):
    """A method whose ranks own slices of the time grid, so that there is one for each at least."""

    slices: PositiveInt | None = Field(
        None, description="time slices M; chosen by the number of steps and ranks if not given"
    )
    bounds: tuple[int, ...] | None = Field(
        None, description="slice boundaries as M + 1 step indices, 0,...,N; even if not given"
    )
    slicing: Literal["even", "logsnr", "ou"] = Field(
        "even",
        description="what slices have alike: steps, length in the signal-to-noise ratio, or length "
        "in Ornstein-Uhlenbeck time",
    )

    def model_post_init(self, context: object) -> None:
        """Refuse slices that are said twice."""
        if self.bounds is None:
            return
        if self.slices not in (None, len(self.bounds) - 1):
            raise InputError(
                f"`bounds` with {len(self.bounds)} bounds make {len(self.bounds) - 1} slices, but "
                f"`slices` is {self.slices}: give one of the two"
            )
        if self.slicing != "even":
            raise InputError(
                f"`bounds` say where slices begin, and so does `slicing` {self.slicing}: give one "
                "of the two"
            )

    @property
    def given_slices(self) -> int | None:
        """M as far as the options name it."""
        return self.slices if self.bounds is None else len(self.bounds) - 1

    def default_slices(self, steps: int, ranks: int) -> int:
        """Return one slice for each rank, and in one process sqrt(N)."""
        return ranks if ranks > 1 else isqrt(steps)

    def held_states(self, steps: int, slices: int, ranks: int, history: int) -> int:
        """Return u, f and g of a rank's slices, and one state on its way."""
        return 3 * ceil(slices / ranks) + 1


def bound(steps: int, slices: int, k: int) -> float:
    """Return T(k) = k B + M - k, evaluations in a row of pipelined Parareal (SRDS, Prop. 2)."""
    return k * steps / slices + slices - k


def best_slices(steps: int, ranks: int, k: int = EXPECTED_ITERATIONS) -> int:
    """Return the multiple of the ranks, at most N, with the least T(k): about sqrt(k N)."""
    most = max(steps // ranks, 1)
    return ranks * min(range(1, most + 1), key=lambda m: bound(steps, m * ranks, k))
