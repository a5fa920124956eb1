"""The stop rule: changes of a sample, their unit, and when a run ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class StopRule:
    """The rule by which a run stops: its last boundary state no longer moves (SRDS).

    Selvam et al. 2024, arXiv 2412.08292.

    Attributes
    ----------
    tolerance : float
        Mean absolute change per value, in 1/255 of the data range. A sample passes at the first
        iteration whose change is smaller.
    data_range : tuple of float
        Least and greatest value of clean data.
    first : int
        First iteration that counts. Before it some slice has started without its full history, so
        a small change proves nothing.
    """

    tolerance: float
    data_range: tuple[float, float]
    first: int = 1

    def change(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the mean absolute change of each sample in 1/255 of the data range.

        numpy sums it on the host, in one thread. So its bits depend on the two states only.

        Parameters
        ----------
        new, old : Tensor, shape (S, *shape)
            The same boundary states at two successive iterations.

        Returns
        -------
        Tensor, shape (S,)
            float64, on the CPU.
        """
        low, high = self.data_range
        difference = np.abs((new - old).double().cpu().numpy().reshape(len(new), -1))
        return torch.from_numpy(difference.mean(axis=1) * (255.0 / (high - low)))

    def outcome(
        self, changes: Sequence[NDArray[np.float64]], last: bool, exact: bool, samples: int
    ) -> Outcome | None:
        """Return how a run ends at its latest iteration, or None if it goes on.

        Parameters
        ----------
        changes : sequence of array, each of shape (S,)
            Changes of the last boundary state at iterations 1, 2, ...
        last : bool
            The run makes no more iterations.
        exact : bool
            The answer is exact by construction.
        samples : int
            Number S of samples.
        """
        moved = np.array(changes, dtype=np.float64).reshape(len(changes), samples)
        passed = moved < self.tolerance
        passed[: self.first - 1] = False
        stopped_at = np.zeros(samples, dtype=np.int32)
        if changes:
            stopped_at[:] = np.where(passed.any(axis=0), passed.argmax(axis=0) + 1, 0)
        converged = exact or bool(stopped_at.all())
        if not (converged or last):
            return None
        return Outcome(len(changes), converged, exact, moved, stopped_at)


@dataclass(frozen=True)
class Outcome:
    """The end of the iterations of a run.

    Attributes
    ----------
    iterations : int
        Number K of iterations: the answer is u_M^K.
    converged : bool
        Every sample met the tolerance, or the answer is exact.
    exact : bool
        After K iterations the answer is the sequential one by construction.
    changes : array, shape (K, S)
        Mean absolute change of the last boundary state, in 1/255 of the data range; of methods in
        rounds the points of the grid that each sample has behind it.
    stopped_at : array of int, shape (S,)
        First iteration at which each sample met the tolerance, 0 where none did.
    """

    iterations: int
    converged: bool
    exact: bool
    changes: NDArray[np.float64]
    stopped_at: NDArray[np.int32]
