"""Kinds of models by their names; light to import, so a wrong name is an error at once.

A new kind of model is one file and its import here. It is asked for a name before the kinds below.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from pint_diffusion.errors import InputError
from pint_diffusion.models.source import Source
from pint_diffusion.options import registered
from pint_diffusion.small_file import read_small_file

if TYPE_CHECKING:
    import torch

    from pint_diffusion.models.denoiser import Denoiser

BUNDLED = Path(__file__).parent / "bundled"
"""Folder of the checkpoint that comes with the package."""

GIVEN = "object:"
"""Begins the name of a network that a program gave as an object."""


class Checkpoint(Source):
    """A diffusers UNet2DModel in a folder, or the bundled one."""

    form = "the folder of a diffusers checkpoint"

    def takes(self, spec: str) -> bool:
        """Return whether the name is a folder."""
        return os.path.isdir(spec)

    def peek(self, spec: str) -> tuple[int, tuple[int, ...]]:
        """Read the network's configuration."""
        folder = Path(spec)
        if (folder / "unet").is_dir():
            folder /= "unet"
        whole = folder / "diffusion_pytorch_model.safetensors"
        weights = [whole] if whole.is_file() else [*folder.glob("*-of-*.safetensors")]
        config = json.loads(read_small_file(folder / "config.json"))
        edge, channels = config["sample_size"], int(config["in_channels"])
        sides = [int(side) for side in (edge if isinstance(edge, list) else [edge, edge])]
        return sum(file.stat().st_size for file in weights), (channels, *sides)

    def load(self, spec: str, device: torch.device, dtype: torch.dtype) -> Denoiser:
        """Load the network, see `load_checkpoint`."""
        from pint_diffusion.models.diffusers_checkpoint import load_checkpoint

        return load_checkpoint(spec, device, dtype)


class Mixture(Source):
    """A Gaussian mixture in an .npz file: ``gmm:FILE.npz``."""

    form = "gmm:FILE.npz for a Gaussian mixture"

    def takes(self, spec: str) -> bool:
        """Return whether the name begins with ``gmm:``."""
        return spec.startswith("gmm:")

    def check(self, spec: str) -> None:
        """Check that the file exists."""
        if not os.path.isfile(spec[4:]):
            raise InputError(f"`model` {spec}: no such file; give gmm:FILE.npz")

    def peek(self, spec: str) -> tuple[int, tuple[int, ...]]:
        """Read the header of the array of means."""
        import numpy as np

        with zipfile.ZipFile(spec[4:]) as arrays, arrays.open("means.npy") as means:
            np.lib.format.read_magic(means)
            shape = np.lib.format.read_array_header_1_0(means)[0]
        return Path(spec[4:]).stat().st_size, shape[1:]

    def load(self, spec: str, device: torch.device, dtype: torch.dtype) -> Denoiser:
        """Load the mixture, see `load_mixture`."""
        from pint_diffusion.models.mixture import load_mixture

        return load_mixture(spec[4:], device, dtype)


class Given(Source):
    """A network that a program gave as an object: its run is resumed by that program."""

    def takes(self, spec: str) -> bool:
        """Tell whether the name begins with `GIVEN`."""
        return spec.startswith(GIVEN)

    def check(self, spec: str) -> None:
        """Refuse it."""
        raise InputError(
            f"the run was given a {spec.removeprefix(GIVEN)} or other things as objects by a "
            "program: resume it from there, with Files(..., resume=True)"
        )


class Factory(Source):
    """A function of the user's own: ``module:factory`` or ``path/to/file.py:factory``."""

    form = "module:factory (or path/to/file.py:factory)"

    def takes(self, spec: str) -> bool:
        """Return whether the name has a colon."""
        return ":" in spec

    def check(self, spec: str) -> None:
        """Check the form of the name, and that the file exists."""
        source, _, name = spec.rpartition(":")
        is_file = source.endswith(".py")
        words = [name] if is_file else [name, *source.split(".")]
        if not all(word.isidentifier() for word in words):
            raise InputError(f"`model` {spec!r}: is not of the form module:factory; {advice()}")
        if is_file and not os.path.isfile(source):
            raise InputError(f"`model` {spec}: there is no file {source}")

    def load(self, spec: str, device: torch.device, dtype: torch.dtype) -> Denoiser:
        """Call the factory, see `load_factory`."""
        from pint_diffusion.models.factory import load_factory

        return load_factory(spec, device, dtype)


SOURCES = [kind() for kind in registered(Source, globals())]
"""Kinds of models; the first one that takes a name has it, so the last one is `Factory`."""


def forms() -> str:
    """Return what names of models there are."""
    *first, last = (source.form for source in SOURCES if source.form)
    return f"{', '.join(first)}, or {last}"


def advice() -> str:
    """Say what to give for a model."""
    return f"leave it out for the bundled network, or give {forms()}"


def find_source(spec: str | None) -> tuple[Source, str]:
    """Return the kind of a model, and its name; None is the bundled network.

    Raises
    ------
    InputError
        If no kind takes the name, or if it names something that does not exist.
    """
    if spec is None:
        if not os.path.isdir(BUNDLED):
            raise InputError(f"{BUNDLED}: the bundled network is missing; install the package anew")
        spec = str(BUNDLED)
    for source in SOURCES:
        if source.takes(spec):
            source.check(spec)
            return source, spec
    found = "is a file" if os.path.isfile(spec) else "no such directory"
    raise InputError(f"`model` {spec!r}: {found}; {advice()}")


def peek(spec: str | None) -> tuple[int, tuple[int, ...]]:
    """Return the bytes of a model's weights and the shape of a sample; this loads nothing.

    They are ``(0, ())`` where the files do not have them or can't be read. In the latter case
    loading the model raises an error that says why.
    """
    try:
        source, name = find_source(spec)
        return source.peek(name)
    except (InputError, OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return 0, ()
