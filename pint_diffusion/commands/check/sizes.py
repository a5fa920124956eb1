"""Sizes: bytes that are free, and bytes that a network and the states of a run take."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pint_diffusion.models import BUNDLED

if TYPE_CHECKING:
    from torch import Tensor

STATES_PER_SLICE = 3
"""The start of a slice, its coarse value and its end."""

MORE_STATES = 3
"""The noise, and one call's rows as they go in and come out."""

_GROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/memory")
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def free_memory() -> int:
    """Bytes that processes of this host can still take, swap included, or of this control group."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    counted = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if " kB" in line}
    free = [counted.get("MemAvailable", 0) + counted.get("SwapFree", 0)]
    groups = Path("/proc/self/cgroup").read_text().splitlines()
    places = {group.rpartition(":")[2].strip("/") for group in groups} | {""}
    for folder in (Path(root, place) for root in _GROUPS for place in places):
        for limit, usage in _FILES:
            try:
                values = [(folder / name).read_text().strip() for name in (limit, usage)]
                cached = _inactive(folder / "memory.stat")
                free.append(int(values[0]) - int(values[1]) + cached)
            except (OSError, ValueError):
                continue  # no such group, or "max"
    return max(0, min(free))


def _inactive(stat: Path) -> int:
    """Bytes of files that the kernel drops when memory is short, which usage counts."""
    lines = [line.split() for line in stat.read_text().splitlines()]
    counts = {name: int(value) for name, value in lines}
    return counts.get("total_inactive_file", counts.get("inactive_file", 0))


def state_size(samples: int, shape: Sequence[int], item: int) -> int:
    """Bytes of one boundary state (S, *shape)."""
    return samples * math.prod(shape) * item


def held(state: int, slices: int, ranks: int) -> int:
    """Bytes that a rank holds at least for its slices, see `STATES_PER_SLICE`."""
    return (STATES_PER_SLICE * math.ceil(slices / ranks) + MORE_STATES) * state


def held_of_window(state: int, points: int, history: int) -> int:
    """Bytes that every rank holds at least of a method in rounds.

    All points of a window, as they were and as they become, and what the network said of each.
    """
    return (points * (2 * (1 + history) + 1) + MORE_STATES) * state


def peek(spec: str | None) -> tuple[int, tuple[int, ...]]:
    """Bytes of a model's weights and shape of its samples, from its files, nothing loaded.

    ``(0, ())`` where the files do not tell, or can't be read: whoever loads them will say why.
    """
    try:
        if spec is not None and spec.startswith("gmm:"):
            with zipfile.ZipFile(spec[4:]) as arrays, arrays.open("means.npy") as means:
                np.lib.format.read_magic(means)
                shape = np.lib.format.read_array_header_1_0(means)[0]
            return Path(spec[4:]).stat().st_size, shape[1:]
        folder = BUNDLED if spec is None else Path(spec)
        if (folder / "unet").is_dir():
            folder /= "unet"
        whole = folder / "diffusion_pytorch_model.safetensors"
        weights = [whole] if whole.is_file() else [*folder.glob("*-of-*.safetensors")]
        config = json.loads((folder / "config.json").read_text())
        edge, channels = config["sample_size"], int(config["in_channels"])
        sides = [int(side) for side in (edge if isinstance(edge, list) else [edge, edge])]
        return sum(file.stat().st_size for file in weights), (channels, *sides)
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return 0, ()


def tensors_of(model: Any, depth: int = 3) -> Iterator[Tensor]:
    """The tensors of a network, which need not be a torch module but may hold some."""
    import torch

    if isinstance(model, torch.Tensor):
        yield model
    elif isinstance(model, torch.nn.Module):
        yield from model.parameters()
        yield from model.buffers()
    elif depth and not isinstance(model, type) and hasattr(model, "__dict__"):
        for part in vars(model).values():
            yield from tensors_of(part, depth - 1)
