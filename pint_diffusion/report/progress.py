"""Progress of a run, shown by rank 0 while the iterations go on."""

from __future__ import annotations

import sys
import time
from math import ceil, log
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pint_diffusion.output import Ended, Output

if TYPE_CHECKING:
    from torch import Tensor

    from pint_diffusion.build.plan import Plan
    from pint_diffusion.runtime.events import EventLog
    from pint_diffusion.runtime.world import World


class ProgressBar(Output):
    """A live bar on a terminal; elsewhere a line for every iteration.

    Parameters
    ----------
    stream : text stream, optional
        Where to write; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._shown: Progress | RoundProgress | None = None

    def open(self, plan: Plan, world: World, events: EventLog) -> None:
        """Begin to show it on rank 0."""
        problem = plan.problem
        self._last = problem.columns
        if world.rank == 0 and plan.method.counts == "points":
            self._shown = RoundProgress(problem.grid.steps, self._stream)
        elif world.rank == 0:
            given = problem.columns, problem.max_iterations, problem.tolerance
            self._shown = Progress(*given, self._stream)

    def boundary(self, n: int, k: int) -> None:
        """Show that u_n^k exists."""
        if self._shown is not None:
            self._shown.boundary(n, k, None)

    def answer(self, k: int, answer: Tensor, change: NDArray[np.float64] | None) -> None:
        """Show that iteration ``k`` is done."""
        if self._shown is not None:
            self._shown.boundary(self._last, k, change)

    def close(self, ended: Ended) -> None:
        """Leave the bar as it is and end its line."""
        if self._shown is not None:
            self._shown.close()
            self._shown = None


class Progress:
    """A live bar on a terminal; elsewhere one plain line per finished iteration.

    Parameters
    ----------
    slices : int
        Slices M; boundary state M is the answer of an iteration.
    max_iterations : int
        Iterations the run may make.
    tolerance : float
        Change of the answer, on the [0, 255] scale, below which a sample stops.
    stream : text stream, optional
        Where to write; standard error by default.
    """

    def __init__(
        self, slices: int, max_iterations: int, tolerance: float, stream: TextIO | None = None
    ) -> None:
        self._slices = slices
        self._limit = min(max_iterations, slices)  # the answer is exact after M iterations
        self._tolerance = tolerance
        self._stream = sys.stderr if stream is None else stream
        self._zero = time.perf_counter()
        self._reached: dict[int, int] = {}
        self._finished: dict[int, float] = {}
        self._changes: dict[int, float] = {}
        self._bar: tqdm | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=slices * (self._limit + 1),
                file=self._stream,
                disable=False,  # whatever the environment says of other bars
                dynamic_ncols=True,
                miniters=0,
                bar_format="{bar:20} {elapsed} {desc}",
            )

    def boundary(self, n: int, k: int, change: NDArray[np.floating] | None) -> None:
        """Note that boundary state u_n^k exists.

        Iterations overlap in a pipelined run, so calls of different ``k`` may alternate. Boundaries
        n < k are exact already and need not be mentioned.

        Parameters
        ----------
        n : int
            Boundary, 1..M.
        k : int
            Iteration, from 0 (the predictor sweep).
        change : array, shape (S,), or None
            How far each sample moved since iteration k - 1, on the [0, 255] scale.
        """
        self._reached[k] = max(n, self._reached.get(k, 0))
        if n == self._slices:
            self._finished[k] = time.perf_counter() - self._zero
            if change is not None and np.size(change):
                self._changes[k] = float(np.max(change))
            if self._bar is None:
                print(self._line(k), file=self._stream, flush=True)
        if self._bar is not None:
            self._draw(self._bar)
            if n == self._slices:
                self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self, k: int) -> str:
        change = f", change {self._against(k)}" if k in self._changes else ""
        return f"iteration {k}: {self._finished[k]:.1f} s{change}{self._time_left()}"

    def _draw(self, bar: tqdm) -> None:
        last = max(self._finished, default=-1)
        guess = self._guess()
        if guess is not None and guess <= last:
            text = f"iteration {last}: done"
        else:  # show the oldest iteration under way
            at = self._reached.get(last + 1)
            text = f"iteration {last + 1}" + (f": slice {at}/{self._slices}" if at else "")
        if last in self._changes:
            text += f", change {self._against(last)}"
        bar.total = self._slices * ((self._limit if guess is None else guess) + 1)
        bar.n = min(sum(self._reached.values()), bar.total)
        bar.set_description_str(text + self._time_left(), refresh=False)
        bar.update(0)  # draws, but no more often than tqdm's mininterval

    def _against(self, k: int) -> str:
        sign = "<" if self._changes[k] < self._tolerance else ">="
        return f"{self._changes[k]:.3g} {sign} {self._tolerance:g}"

    def _guess(self) -> int | None:
        return guess_stop(self._changes, self._tolerance, self._limit)

    def _time_left(self) -> str:
        """Pace of the last iteration times the iterations still expected; empty if unknown."""
        last = max(self._finished, default=0)
        guess = self._guess()
        if guess is None or last - 1 not in self._finished or guess <= last:
            return ""
        pace = self._finished[last] - self._finished[last - 1]
        left = self._finished[last] + (guess - last) * pace - (time.perf_counter() - self._zero)
        return f", about {max(left, 0.0):.1f} s left (to iteration {guess})"


class RoundProgress:
    """The same for methods in rounds: how many grid points the slowest sample has behind it.

    Parameters
    ----------
    steps : int
        Steps N.
    stream : text stream, optional
        Where to write; standard error by default.
    """

    def __init__(self, steps: int, stream: TextIO | None = None) -> None:
        self._steps = steps
        self._stream = sys.stderr if stream is None else stream
        self._zero = time.perf_counter()
        self._bar: tqdm | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=steps, file=self._stream, disable=False, dynamic_ncols=True, unit="step"
            )

    def boundary(self, n: int, k: int, reached: NDArray[np.floating] | None) -> None:
        """Note that round ``k`` is done, and the points that each sample has behind it, (S,)."""
        least = 0 if reached is None else int(np.min(reached))
        if self._bar is None:
            seconds = time.perf_counter() - self._zero
            text = f"round {k}: {seconds:.1f} s, {least} of {self._steps} steps"
            print(text, file=self._stream, flush=True)
        else:
            self._bar.set_description_str(f"round {k}", refresh=False)
            self._bar.update(least - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        if self._bar is not None:
            self._bar.close()


def guess_stop(changes: dict[int, float], tolerance: float, limit: int) -> int | None:
    """Extrapolate the decay of the change to the iteration that will meet the tolerance.

    ``log(change)`` is continued linearly through the last two iterations.

    Parameters
    ----------
    changes : dict of int to float
        Change of the worst sample at each finished iteration.
    tolerance : float
        Change below which the run stops.
    limit : int
        Iteration at which the run stops in any case.

    Returns
    -------
    int or None
        At most ``limit``; None as long as there is nothing to extrapolate from.
    """
    if not changes:
        return None
    k = max(changes)
    if changes[k] < tolerance or k >= limit:
        return min(k, limit)
    if tolerance <= 0:
        return limit
    if k - 1 not in changes:
        return None
    if changes[k] >= changes[k - 1]:
        return limit
    decay = log(changes[k] / changes[k - 1])
    return min(limit, k + max(1, ceil(log(tolerance / changes[k]) / decay)))
