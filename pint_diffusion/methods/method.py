"""A sampling method: its options, the facts about its iterations, and its coroutines."""

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
"""Function that starts the coroutines of a rank on its runtime."""


class Method(Options):
    """A sampling method with its options; a subclass is a method.

    Attributes
    ----------
    unit : str
        Unit of the tolerance.
    counts : {"changes", "points"}
        Measure of an iteration: the change of each sample's answer, or the number of points of the
        grid that each sample has behind it.
    retires : bool
        Columns n < k are final at iteration k, and its checkpoint is without them. The columns of
        such a method are boundary states, and the files keep them for every iteration.
    extra_tensors : int
        Tensors in a column beside x and the solver's history.
    column : str
        Name of what a column of a checkpoint stands for: a slice, a point or a core.
    uses_coarse : bool
        The method makes coarse solves.
    iterates : bool
        The method has iterations after which a run can be resumed.
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
        description="a sample has converged when one iteration changes its values by less, on "
        "average, in 1/255 of the data range; with 0 the answer is exact",
    )
    max_iterations: PositiveInt | None = Field(
        None,
        json_schema_extra=FREE,
        description="most iterations; if not given, as many as make the answer exact",
    )

    @property
    def begins_on(self) -> Path | None:
        """Folder of a run whose trajectory is the first guess; None: there is no such run."""
        return None

    @abstractmethod
    def prepare(self, problem: Problem) -> Start:
        """Prepare the run before its clock starts; return a function that starts the coroutines."""
        raise NotImplementedError(f"{type(self).__name__} has no coroutines")

    def check(self, problem: Problem) -> None:
        """Check that the method can solve a problem, on every rank, before the first message.

        Raises
        ------
        InputError
            If it can't.
        """

    def doubt(self, problem: Problem) -> str | None:
        """Say why a run can't be expected to be faster than the sequential sampler, or None."""
        return None

    def columns(self, grid: TimeGrid) -> int:
        """Return the number of columns n = 0, 1, ... in the checkpoint of an iteration."""
        return grid.slices

    def enough_iterations(self, grid: TimeGrid) -> int:
        """Return the number of iterations after which the answer is exact."""
        return self.columns(grid)

    def default_slices(self, steps: int, ranks: int) -> int:
        """Return the number of slices of N steps where the user gives none."""
        return 1

    def held_states(self, steps: int, slices: int, ranks: int, history: int) -> int:
        """Return the least number of boundary states that a rank holds at once.

        Parameters
        ----------
        steps, slices, ranks : int
            N, M, and the number of ranks R.
        history : int
            Number of tensors that the solver carries.
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
        """Return the seconds of a run on P devices, if messages take no time.

        Parameters
        ----------
        devices : int
            Number P of devices.
        problem : Problem
            The problem of the run.
        iterations : int
            Number of iterations that the run took.
        in_a_row : sequence of int
            Sizes of the sets of evaluations that follow one another. The evaluations of one set do
            not depend on each other.
        costs : mapping of int to float
            Number of evaluations in a call -> seconds of the call.

        Returns
        -------
        float or None
            Seconds; None if they are not known.
        """
        return rounds_on(in_a_row, devices, costs)


class Sliced(Method):
    """A method with slices of the time grid.

    Attributes
    ----------
    ranks_own_slices : bool
        Every rank owns a slice, so there are as many slices as ranks at least.
    """

    ranks_own_slices: ClassVar[bool] = True

    slices: PositiveInt | None = Field(
        None, description="time slices M; if not given, by the number of steps and ranks"
    )
    bounds: tuple[int, ...] | None = Field(
        None, description="slice boundaries as M + 1 step indices, 0,...,N; even if not given"
    )
    slicing: Literal["even", "logsnr", "ou"] = Field(
        "even",
        description="slices are equal in steps, in length in the signal-to-noise ratio, or in "
        "length in Ornstein-Uhlenbeck time",
    )

    def model_post_init(self, context: object) -> None:
        """Refuse options that set the slices twice."""
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
        """Number M of slices if the options set it, else None."""
        return self.slices if self.bounds is None else len(self.bounds) - 1

    def default_slices(self, steps: int, ranks: int) -> int:
        """Return sqrt(N) slices."""
        return isqrt(steps)

    def held_states(self, steps: int, slices: int, ranks: int, history: int) -> int:
        """Return the number of u, f and g of a rank's slices, and one state under way."""
        return 3 * ceil(slices / ranks) + 1
