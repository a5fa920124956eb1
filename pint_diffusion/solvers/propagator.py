"""Propagators: walks over a slice, built of one-step maps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from torch import Tensor

from pint_diffusion.grid import Level
from pint_diffusion.models.denoiser import Prediction

Evaluate: TypeAlias = Callable[[Tensor, Level], Awaitable[Prediction]]
"""Await it for what the network sees in states (S, *shape) at a level."""

Step: TypeAlias = Callable[[Evaluate, Tensor, Level, Level], Coroutine[Any, Any, Tensor]]
"""A one-step map: from states at one level to states at a cleaner one.

It evaluates at the first level first, and the result is a function of its arguments only.
"""


async def propagate(step: Step, evaluate: Evaluate, x: Tensor, levels: Sequence[Level]) -> Tensor:
    """Walk states (S, *shape) from ``levels[0]`` to ``levels[-1]``, one step per interval."""
    for here, there in pairwise(levels):
        x = await step(evaluate, x, here, there)
    return x


def knowing(first: Prediction, evaluate: Evaluate) -> Evaluate:
    """Like ``evaluate``, but the first evaluation is already made.

    Two propagators that start from one state need its evaluation only once.
    """
    known: list[Prediction] = [first]

    async def replay(x: Tensor, level: Level) -> Prediction:
        return known.pop() if known else await evaluate(x, level)

    return replay
