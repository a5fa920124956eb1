"""A finished run as plain arrays, for the reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, repr=False)
class RunRecord:
    """The results of a run: K iterations, M slices, N steps, S samples.

    Attributes
    ----------
    samples : array, shape (S, *shape)
        The answer, u_M at the last iteration.
    boundary : array, shape (K + 1, M + 1, S, *shape), or None
        Boundary states u_n^k; None if the run kept only the samples.
    sequential : array, shape (S, *shape), or None
        The sequential sampler's answer, of a run with ``--verify``.
    change : array, shape (K, S)
        Mean absolute change of the last boundary state at iterations 1 .. K, in 1/255 of the data
        range; of methods in rounds the points that each sample has behind it.
    stopped_at : array of int, shape (S,)
        First iteration at which each sample met the tolerance; 0 where none did.
    alpha_bar : array, shape (N + 1,)
        Noise levels as alpha_bar = a^2, noisiest first.
    bounds : array of int, shape (M + 1,)
        Step indices of the slice boundaries.
    events : array of `EVENT_DTYPE`, shape (rows,)
        Events of all ranks; times in seconds.
    config : dict
        The settings as given.
    facts : dict
        The master file's attributes: counts, times, hosts, versions.
    """

    samples: NDArray[np.floating]
    boundary: NDArray[np.floating] | None
    sequential: NDArray[np.floating] | None
    change: NDArray[np.float64]
    stopped_at: NDArray[np.int32]
    alpha_bar: NDArray[np.float64]
    bounds: NDArray[np.int64]
    events: NDArray[Any]
    config: dict[str, Any]
    facts: dict[str, Any]

    def __repr__(self) -> str:
        samples, shape = len(self.samples), self.samples.shape[1:]
        counted = f"{len(self.change)} iterations" if self.facts["iterates"] else "no iterations"
        kept = "" if self.boundary is None else ", with boundary states"
        return (
            f"<RunRecord: {self.facts['method']}, {self.bounds[-1]} steps, {samples} samples of "
            f"{shape}, {counted}, {self.facts['status']}{kept}>"
        )
