"""The facts of a run, as attributes of its master file: their types, and the settings in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import yaml

from pint_diffusion.errors import InputError
from pint_diffusion.settings.run import Settings
from pint_diffusion.store.part import RUN

FORMAT = 4
"""Version of the file format, raised when a reader of the old one would go wrong."""

_NUMBER = (int, float)
_NEEDED: dict[str, Any] = {
    **dict.fromkeys((RUN, "status", "config", "method", "coarse_solver", "fingerprint"), str),
    **dict.fromkeys(("seed", "ranks", "threads", "segment", "resumed_after"), int),
    "enough_iterations": int,
    **dict.fromkeys(
        ("mpi_library", "options", "solver", "solver_options", "counts", "column"), str
    ),
    "tolerance_unit": str,
    **dict.fromkeys(("summed_noise", "retires", "iterates", "uses_coarse"), bool),
    "tolerance": _NUMBER,
}
_OPTIONAL: dict[str, Any] = {
    **dict.fromkeys(("iterations", "evaluations", "evaluations_wasted"), int),
    **dict.fromkeys(("evaluations_deep", "calls_deep", "network_calls"), int),
    **dict.fromkeys(("converged", "exact"), bool),
    "precision": str,
    **dict.fromkeys(("wall_time", "evaluation_time", "sequential_wall_time"), _NUMBER),
    "cores_per_rank": _NUMBER,
}
_LISTS: dict[str, Any] = {
    **dict.fromkeys(("fine_evaluations", "coarse_evaluations"), int),
    **dict.fromkeys(("hosts", "devices", "versions", "code"), str),
    "data_range": _NUMBER,
}
"""Attributes and their types; for lists, the types of the entries."""


def read_facts(file: h5py.File) -> dict[str, Any]:
    """Read the attributes of a master file.

    Raises
    ------
    ValueError
        If one is missing or not of its type.
    """
    facts = {name: _plain(value) for name, value in file.attrs.items()}
    if facts.get("format") != FORMAT:
        raise ValueError(f"it has format {facts.get('format')}, not {FORMAT}")
    wrong = [name for name, kind in _NEEDED.items() if not isinstance(facts.get(name), kind)]
    wrong += [n for n, kind in _OPTIONAL.items() if n in facts and not isinstance(facts[n], kind)]
    for name, kind in _LISTS.items():
        entries = facts.get(name)
        if not isinstance(entries, list) or not all(isinstance(one, kind) for one in entries):
            wrong.append(name)
    if wrong or len(facts["data_range"]) != 2:
        raise ValueError(f"its attribute {[*wrong, 'data_range'][0]} is not what it must be")
    return facts


def read_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in the attribute ``config``.

    Raises
    ------
    ValueError
        If it holds no settings, or wrong ones.
    """
    config = yaml.safe_load(facts["config"])
    if not isinstance(config, dict) or not config.keys() <= Settings.model_fields.keys():
        raise ValueError("its attribute config holds no settings")
    for name in ("method", "solver"):
        value = config.get(name)
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"its attribute config names no {name}")
    try:
        Settings(**without_third_parties(config))
    except InputError:
        raise ValueError("its attribute config holds wrong settings") from None
    return config


def without_third_parties(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without classes of others: reading a file runs no code that it names.

    Nor does it need a method or a solver that is known where the run was made only.
    """
    kept: dict[str, Any] = {}
    for name, value in config.items():
        known = Settings.choices.get(name)
        named = value.get("name") if isinstance(value, dict) else value
        if isinstance(named, str) and known is not None and named not in known:
            continue
        if isinstance(value, dict):
            if ":" in str(value.get("name")):
                continue
            value = without_third_parties(value)
        kept[name] = value
    return kept


def as_attribute(value: Any) -> Any:
    """Return a fact as h5py takes it: an empty list of texts too."""
    return np.array([], h5py.string_dtype()) if isinstance(value, list) and not value else value


def _plain(value: Any) -> Any:
    """Turn an HDF5 attribute into Python's own types."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
