"""Sizes of a run: what is refused before a state is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pint_diffusion.memory import refuse_more_than_free, state_size
from pint_diffusion.runtime.world import World

MORE_STATES = 3
"""States that a run holds beside those of its method: the noise, and a call's input and output."""


def refuse_large_states(
    samples: int,
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    world: World,
    held: int = 0,
) -> None:
    """Refuse states that do not fit into the memory that is free now.

    Parameters
    ----------
    samples : int
        Number S of samples.
    shape : sequence of int
        Shape of one sample.
    dtype : torch.dtype
        Of the states.
    device : torch.device
        Where this rank has them.
    world : World
        The ranks; those of a host share its memory.
    held : int
        Least number of states that the method holds on a rank.

    Raises
    ------
    InputError
        If they do not.
    """
    needed = (held + MORE_STATES) * state_size(samples, shape, dtype.itemsize)
    what = f"a run with `samples` {samples} of shape {tuple(shape)}"
    refuse_more_than_free(
        what,
        needed,
        device,
        "take fewer samples; of parareal more hosts, or a rank per slice; of methods in rounds a "
        "smaller window, or more slices",
        world.local_size,
    )
