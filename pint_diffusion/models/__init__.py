"""Models: closed-form mixtures, diffusers checkpoints, networks of the user's own.

This module imports nothing heavy, so a wrong name is an error at once. A new kind of model is one
file and its import in `models.kinds`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pint_diffusion.errors import InputError
from pint_diffusion.models.kinds import SOURCES, find_source, peek
from pint_diffusion.models.source import Source

if TYPE_CHECKING:
    import torch

    from pint_diffusion.models.denoiser import Denoiser

__all__ = ["SOURCES", "Source", "find_source", "load_denoiser", "peek"]


def load_denoiser(
    spec: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Denoiser:
    """Load a model by name.

    Parameters
    ----------
    spec : str or None
        None for the bundled network; the folder of a diffusers checkpoint (`load_checkpoint`);
        ``gmm:FILE`` for a Gaussian mixture (`load_mixture`); ``module:factory`` or
        ``path/to/file.py:factory`` for anything else (`load_factory`). Modules that the network is
        or holds are put into evaluation mode.
    device : torch.device or str
        Device of the model.
    dtype : torch.dtype, optional
        Floating type of weights, states and results; float32 if not given.

    Raises
    ------
    InputError
        If ``spec`` is none of these, or if it names a model that can't be used.
    """
    import torch

    from pint_diffusion.models.contents import put_into_evaluation_mode

    source, name = find_source(spec)
    network = source.load(name, torch.device(device), torch.float32 if dtype is None else dtype)
    try:
        put_into_evaluation_mode(network)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    with contextlib.suppress(AttributeError):  # a network of the user's own may have no room
        network.source = name  # type: ignore[attr-defined]
    return network
