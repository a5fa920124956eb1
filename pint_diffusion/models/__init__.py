"""What is evaluated: closed-form mixtures, diffusers checkpoints, networks of the user's own.

This module imports nothing heavy, so that a wrong name is told at once: see `check_spec`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pint_diffusion.errors import InputError

if TYPE_CHECKING:
    import torch

    from pint_diffusion.models.denoiser import Denoiser

__all__ = ["BUNDLED", "check_spec", "load_denoiser"]

BUNDLED = Path(__file__).parent / "bundled"
"""Folder of the checkpoint that comes with the package."""

KINDS = (
    "leave it out for the bundled network, or give the folder of a diffusers checkpoint, "
    "gmm:FILE.npz for a Gaussian mixture, or module:factory (or path/to/file.py:factory)"
)


def check_spec(spec: str | None) -> Literal["checkpoint", "mixture", "factory"]:
    """Check the name of a model as far as that goes without loading anything.

    Parameters
    ----------
    spec : str or None
        See `load_denoiser`.

    Returns
    -------
    {"checkpoint", "mixture", "factory"}
        What `load_denoiser` will take it for.

    Raises
    ------
    InputError
        If it is none of the four kinds, or names a file or folder that is not there.
    """
    if spec is None:
        if not os.path.isdir(BUNDLED):
            raise InputError(f"{BUNDLED}: the bundled network is missing; install the package anew")
        return "checkpoint"
    if spec.startswith("gmm:"):
        if not os.path.isfile(spec[4:]):
            raise InputError(f"model {spec}: no such file; give gmm:FILE.npz")
        return "mixture"
    if os.path.isdir(spec):
        return "checkpoint"
    if ":" in spec:
        _check_factory(spec)
        return "factory"
    found = "is a file" if os.path.isfile(spec) else "no such directory"
    raise InputError(f"model {spec!r}: {found}; {KINDS}")


def _check_factory(spec: str) -> None:
    source, _, name = spec.rpartition(":")
    is_file = source.endswith(".py")
    if not name.isidentifier() or not (
        is_file or all(part.isidentifier() for part in source.split("."))
    ):
        raise InputError(f"model {spec!r}: is not of the form module:factory; {KINDS}")
    if is_file and not os.path.isfile(source):
        raise InputError(f"model {spec}: there is no file {source}")


def load_denoiser(spec: str | None, device: torch.device, dtype: torch.dtype) -> Denoiser:
    """Load a model by name.

    Parameters
    ----------
    spec : str or None
        None for the bundled network; the folder of a diffusers checkpoint (`load_checkpoint`);
        ``gmm:FILE`` for a Gaussian mixture (`load_mixture`); ``module:factory`` or
        ``path/to/file.py:factory`` for anything else (`load_factory`).
    device : torch.device
        Where the model goes.
    dtype : torch.dtype
        Floating type of weights, states and results.

    Raises
    ------
    InputError
        If ``spec`` is none of these, or what it names can't be used.
    """
    kind = check_spec(spec)
    if spec is None or kind == "checkpoint":
        from pint_diffusion.models.checkpoint import load_checkpoint

        return load_checkpoint(BUNDLED if spec is None else spec, device, dtype)
    if kind == "mixture":
        from pint_diffusion.models.mixture import load_mixture

        return load_mixture(spec[4:], device, dtype)
    from pint_diffusion.models.factory import load_factory

    return load_factory(spec, device, dtype)
