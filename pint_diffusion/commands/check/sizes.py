"""Sizes: free bytes, and bytes that a network and the states of a run take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MORE_STATES = 3
"""States that a run holds beside those of its method: the noise, and a call's input and output."""

_GROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/memory")
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def free_memory() -> int:
    """Return the bytes that this host, or this control group, has left for processes, with swap."""
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
    """Return the bytes of cached files: usage counts them, but the kernel can drop them."""
    lines = [line.split() for line in stat.read_text().splitlines()]
    counts = {name: int(value) for name, value in lines}
    return counts.get("total_inactive_file", counts.get("inactive_file", 0))


def state_size(samples: int, shape: Sequence[int], item: int) -> int:
    """Return the bytes of one boundary state (S, *shape)."""
    return samples * math.prod(shape) * item


def tensors_of(model: Any, depth: int = 3) -> Iterator[Tensor]:
    """Yield the tensors of a network: a torch module, or an object that holds modules."""
    import torch

    if isinstance(model, torch.Tensor):
        yield model
    elif isinstance(model, torch.nn.Module):
        yield from model.parameters()
        yield from model.buffers()
    elif depth and not isinstance(model, type) and hasattr(model, "__dict__"):
        for part in vars(model).values():
            yield from tensors_of(part, depth - 1)
