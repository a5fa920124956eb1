"""Versions of the program and of the libraries that a run uses; none of them is loaded."""

from __future__ import annotations

import sys
from importlib import metadata

import pint_diffusion

LIBRARIES = (
    *("torch", "numpy", "scipy", "h5py", "pydantic", "matplotlib", "mpi4py", "mpich"),
    *("diffusers", "safetensors"),
)


def versions() -> list[str]:
    """Return name and version of each, as ``numpy 2.1.0``, or ``no mpich``."""
    found = [f"python {'.'.join(map(str, sys.version_info[:3]))}"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return found


def version_text() -> str:
    """Return what ``pint-diffusion --version`` prints, without a newline at the end."""
    return "\n".join([f"pint-diffusion {pint_diffusion.__version__}", *versions()])
