"""The teacher walk of GITS: a sequential DDIM walk of a few samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.grid.gits import jump_costs
from pint_diffusion.runtime.evaluator import Evaluator
from pint_diffusion.runtime.requests import Ask


def measured_costs(
    evaluator: Evaluator, noise: Tensor, levels: Sequence[Level]
) -> NDArray[np.float64]:
    """Measure the jump costs between levels, shape (P, P); see `jump_costs`.

    Parameters
    ----------
    evaluator : Evaluator
        The network.
    noise : Tensor, shape (S, *shape)
        States at the start of the walk.
    levels : sequence of Level
        P levels, noisiest first. The walk makes P - 1 evaluations.
    """
    x0, eps = walk_teacher(evaluator, noise, levels)
    return jump_costs(x0, eps, np.array([level.sigma for level in levels]))


@torch.inference_mode()
def walk_teacher(
    evaluator: Evaluator, noise: Tensor, levels: Sequence[Level]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the x0 and eps that the network sees before every step, shape (P - 1, S, D) each.

    The parameters are those of `measured_costs`.
    """
    x, seen = noise, []
    for here, there in pairwise(levels):
        prediction = evaluator([Ask("fine", 0, 0)(x, here)])[0]
        seen.append(prediction)
        x = there.a * prediction.x0 + there.s * prediction.eps
    evaluator.check()
    return _flat([p.x0 for p in seen]), _flat([p.eps for p in seen])


def _flat(rows: list[Tensor]) -> NDArray[np.float64]:
    return np.stack([row.flatten(1).double().cpu().numpy() for row in rows])
