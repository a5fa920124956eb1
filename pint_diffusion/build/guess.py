"""Where an iteration may begin: on the trajectory of another run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.methods.problem import Problem
from pint_diffusion.store.master import read_run


def trajectory(problem: Problem, run: Path) -> list[Tensor]:
    """Read the last boundary states of a run, and fill in the points of this grid.

    States have a^2 + s^2 = 1, so levels are angles. Between two boundary states a point lies on
    the ellipse x = a x0 + s eps through both, on which DDIM moves while the network says the same.

    Parameters
    ----------
    problem : Problem
        Whose grid and samples they are for.
    run : Path
        Folder of the run; its grid and its slices may be others.

    Returns
    -------
    list of Tensor, N + 1 of shape (S, *shape)

    Raises
    ------
    InputError
        If there is no run, if it has kept no boundary states, or if its samples have another shape
        or number.
    """
    record, wanted = read_run(run), tuple(problem.noise.shape)
    if record.boundary is None or record.facts["column"] != "slice":
        raise InputError(
            f"`warm_start` {run} has kept no boundary states: give a run of the method sequential "
            "or parareal that was not made with `keep` final"
        )
    if record.samples.shape != wanted:
        raise InputError(
            f"`warm_start` {run} has samples of shape {record.samples.shape}, and this run of "
            f"shape {wanted}: they must be the same"
        )
    known = _angles(record.alpha_bar[record.bounds])
    levels = np.array([level.alpha_bar for level in problem.grid.levels])
    here = np.clip(_angles(levels), known[-1], known[0])
    after = np.clip(np.searchsorted(-known, -here), 1, len(known) - 1)
    states = torch.from_numpy(record.boundary[-1]).to(problem.noise)
    filled = []
    for angle, k in zip(here, after, strict=True):
        span = np.sin(known[k - 1] - known[k])
        first, last = np.sin(angle - known[k]) / span, np.sin(known[k - 1] - angle) / span
        filled.append(float(first) * states[k - 1] + float(last) * states[k])
    return filled


def _angles(alpha_bar: np.ndarray) -> np.ndarray:
    """Angle of (a, s), a quarter turn for noise and zero for data."""
    return np.arctan2(np.sqrt(1 - alpha_bar), np.sqrt(alpha_bar))
