"""When a run may stop: changes, their unit, and the stop rule, all per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class StopRule:
    """Stop when the last boundary state has stopped moving (SRDS, arXiv 2412.08292).

    Attributes
    ----------
    tolerance : float
        A sample passes at the first iteration whose mean absolute change per value lies below
        this, on the scale on which the data range is [0, 255].
    data_range : tuple of float
        Least and greatest value of clean data.
    first : int
        First iteration that counts. Those before it are not made with all that the fine solver
        carries, so that nothing may move only because nothing has been carried yet.
    """

    tolerance: float
    data_range: tuple[float, float]
    first: int = 1

    def change(self, new: Tensor, old: Tensor) -> Tensor:
        """Mean absolute change per sample on the [0, 255] scale, float64 on the CPU.

        It is summed by numpy on the host, in one thread, so that its bits depend on the two
        states only.

        Parameters
        ----------
        new, old : Tensor, shape (S, *shape)
            The same boundary states at two successive iterations.

        Returns
        -------
        Tensor, shape (S,)
        """
        low, high = self.data_range
        difference = np.abs((new - old).double().cpu().numpy().reshape(len(new), -1))
        return torch.from_numpy(difference.mean(axis=1) * (255.0 / (high - low)))

    def outcome(
        self, changes: Sequence[NDArray[np.float64]], last: bool, exact: bool, samples: int
    ) -> Outcome | None:
        """Return how a run ends after as many iterations as there are changes, if it ends.

        Parameters
        ----------
        changes : sequence of array, each of shape (S,)
            Changes of the last boundary state at iterations 1, 2, ...
        last : bool
            No more iterations are to be made.
        exact : bool
            The answer is exact by construction.
        samples : int
            S.
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
    """How the iteration of a run ended.

    Attributes
    ----------
    iterations : int
        K: the answer is u_M^K.
    converged : bool
        Every sample met the tolerance, or the answer is exact.
    exact : bool
        K iterations make the answer the sequential one by construction.
    changes : array, shape (K, S)
        Mean absolute change of the last boundary state, [0, 255] scale.
    stopped_at : array of int, shape (S,)
        First iteration at which each sample met the tolerance, 0 where none did.
    """

    iterations: int
    converged: bool
    exact: bool
    changes: NDArray[np.float64]
    stopped_at: NDArray[np.int32]
