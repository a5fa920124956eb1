"""A finished run as plain arrays: what the reports are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RunRecord:
    """What a run left behind. K iterations, M slices, N steps, S samples.

    Attributes
    ----------
    samples : array, shape (S, *shape)
        The answer, u_M at the last iteration.
    boundary : array, shape (K + 1, M + 1, S, *shape), or None
        Boundary states u_n^k; None if the run kept only the samples.
    sequential : array, shape (S, *shape), or None
        The sequential sampler's answer, if it was asked for.
    change : array, shape (K, S)
        Mean absolute change of the last boundary state at iterations 1..K, on the [0, 255] scale.
    stopped_at : array of int, shape (S,)
        First iteration at which each sample met the tolerance; 0 where none did.
    alpha_bar : array, shape (N + 1,)
        Noise levels, noisiest first.
    bounds : array of int, shape (M + 1,)
        Step indices of the slice boundaries.
    events : array of `EVENT_DTYPE`
        What every rank did when.
    config : dict
        The configuration as given.
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
