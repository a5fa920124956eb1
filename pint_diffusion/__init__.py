"""Parallel-in-time sampling of diffusion models on clusters.

The names below are loaded when they are used: importing the package imports neither torch nor
mpi4py, h5py or diffusers.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())

_PUBLIC = {
    "Denoiser": "models.denoiser",
    "EventLog": "runtime.events",
    **dict.fromkeys(("Files",), "store.folder"),
    **dict.fromkeys(("InputError", "Interrupted", "NetworkError", "PintError"), "errors"),
    **dict.fromkeys(("RunFailed", "StoreError", "TransportError"), "errors"),
    **dict.fromkeys(("NoiseSchedule", "Spacing", "TimeGrid"), "grid"),
    **dict.fromkeys(("Chords", "Method", "PIADM", "ParaDiGMS", "ParaTAA", "Parareal"), "methods"),
    **dict.fromkeys(("Sequential", "Window"), "methods"),
    "Output": "output",
    "ProgressBar": "report.progress",
    "Run": "result",
    "RunRecord": "store.record",
    **dict.fromkeys(("DDIM", "DDPM", "DEIS", "DEIS3", "DPM2", "DPMpp1", "DPMpp2M"), "solvers"),
    **dict.fromkeys(("DPMpp2S", "DPMpp3M", "DPMpp3MFull", "Euler", "EulerAncestral"), "solvers"),
    **dict.fromkeys(("FlowEuler", "FlowHeun", "Heun", "LambdaDDIM", "OUODE", "OUSDE"), "solvers"),
    **dict.fromkeys(("PNDM", "SDEDPMpp1", "Solver", "UniPC", "UniPC3"), "solvers"),
    "Coarse": "build.coarse",
    "Corrector": "solvers.langevin",
    "Stream": "report.stream",
    "condition": "models.conditional",
    **dict.fromkeys(("from_diffusers", "from_edm"), "models.wrap"),
    **dict.fromkeys(("iterate", "sample"), "api"),
    "load_denoiser": "models",
    "parallelize": "pipelines",
    "read_run": "store.master",
}
"""Where each public name is."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'pint_diffusion' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
