"""What a kind of model is: which names are its own, and how it loads the network of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pint_diffusion.models.denoiser import Denoiser


class Source:
    """A kind of model; a subclass decides which names are its own, and loads them.

    Only `load` imports anything heavy.

    Attributes
    ----------
    form : str
        Form of its names, for error messages.
    prefix : str
        What its names begin with, if all do.
    """

    form = ""
    prefix = ""

    def takes(self, spec: str) -> bool:
        """Return whether a name is of this kind."""
        return bool(self.prefix) and spec.startswith(self.prefix)

    def absolute(self, spec: str) -> str:
        """Return a name that means the same from any folder."""
        return spec

    def check(self, spec: str) -> None:
        """Check a name without loading anything.

        Raises
        ------
        InputError
            If it names something that does not exist.
        """

    def peek(self, spec: str) -> tuple[int, tuple[int, ...]]:
        """Return the bytes of the weights and the shape of a sample, ``(0, ())`` if not known.

        Raises
        ------
        OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile
            If the files are wrong; `load` raises an error that says why.
        """
        return 0, ()

    def load(self, spec: str, device: torch.device, dtype: torch.dtype) -> Denoiser:
        """Load the network.

        Raises
        ------
        InputError
            If the name stands for a model that can't be used.
        """
        raise NotImplementedError
