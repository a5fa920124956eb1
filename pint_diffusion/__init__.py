"""Parallel-in-time sampling of diffusion models on clusters.

The names below are loaded when they are used: importing the package imports neither torch nor
mpi4py, h5py or diffusers.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Denoiser": "pint_diffusion.models.denoiser",
    "InputError": "pint_diffusion.errors",
    "NetworkError": "pint_diffusion.errors",
    "NoiseSchedule": "pint_diffusion.grid",
    "RunRecord": "pint_diffusion.store.record",
    "Settings": "pint_diffusion.settings.run",
    "TimeGrid": "pint_diffusion.grid",
    "World": "pint_diffusion.runtime.world",
    "load_denoiser": "pint_diffusion.models",
    "open_world": "pint_diffusion.runtime.world",
    "read_run": "pint_diffusion.store.master",
    "run_job": "pint_diffusion.commands.sample",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'pint_diffusion' has no attribute {name!r}")
