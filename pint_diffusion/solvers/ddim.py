"""DDIM, the deterministic first-order solver (Song et al. 2021, eta = 0)."""

from __future__ import annotations

from math import sqrt

from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.solvers.propagator import Evaluate


async def ddim(evaluate: Evaluate, x: Tensor, here: Level, there: Level) -> Tensor:
    """Step from level ``here`` to the cleaner level ``there``.

    x' = sqrt(alpha_bar') x0 + sqrt(1 - alpha_bar') eps, with x0 and eps as the network sees them
    in x (equation 12 of arXiv 2010.02502 with sigma = 0). One evaluation.

    Parameters
    ----------
    evaluate : callable
        Awaitable network evaluation, see `Evaluate`.
    x : Tensor, shape (S, *shape)
        States at ``here``.
    here, there : Level
        Where the step begins and ends.
    """
    x0, eps = await evaluate(x, here)
    return sqrt(there.alpha_bar) * x0 + sqrt(1 - there.alpha_bar) * eps
