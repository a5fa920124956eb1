"""Memory: what is free here, and what is refused before it is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pint_diffusion.errors import InputError

if TYPE_CHECKING:
    import torch

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


def free_on(device: torch.device) -> int:
    """Return the bytes that a device has left for this process."""
    if device.type != "cuda":
        return free_memory()
    import torch

    return torch.cuda.mem_get_info(device)[0]


def refuse_more_than_free(
    what: str, needed: int, device: torch.device, to_do: str, ranks: int = 1
) -> None:
    """Refuse what needs more memory than there is: nothing of it has been taken yet.

    Parameters
    ----------
    what : str
        Needs the memory, in the error.
    needed : int
        Least bytes of it.
    device : torch.device
        Where.
    to_do : str
        What to do then.
    ranks : int
        Ranks on this host, each of which needs as much. They share its GPUs.

    Raises
    ------
    InputError
        If there is less.
    """
    if device.type == "cuda":
        import torch

        ranks = -(-ranks // torch.cuda.device_count())
    free = free_on(device)
    if needed * ranks > free:
        each = f" on each of {ranks} ranks" if ranks > 1 else ""
        raise InputError(
            f"{what} needs at least {amount(needed)}{each}, and {amount(free)} are free on "
            f"{device}: {to_do}"
        )


def amount(size: float) -> str:
    """Return bytes in a suitable unit."""
    size = min(size, 1e30)
    for unit in ("B", "KB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
