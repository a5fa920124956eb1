"""Digests of weights: exact, the same on every device, and as fast as memory is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pint_diffusion.models.contents import contents

CHUNK = 2**16
"""Words that are summed at a time on a CPU, as many as its caches hold."""

LARGE_CHUNK = 2**22
"""The same elsewhere, where fewer are faster: 32 megabytes, and as many beside them."""

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers by their bytes."""


def weights_of(network: Any) -> dict[str, str]:
    """Return a digest of each tensor and array that a network holds, by its name.

    Of a module it is what its ``state_dict`` has.

    Parameters
    ----------
    network : object
        A denoiser.
    """
    sums = {name: (described(one), _summed(one)) for name, one in _arrays(network)}
    # They are read here, so that a GPU makes all of them without waiting.
    return {
        name: f"{text} {'unknown' if both is None else both.tolist()}"
        for name, (text, both) in sums.items()
    }


def described(array: Tensor | np.ndarray) -> str:
    """Return type and shape."""
    return f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"


def checksum(array: Tensor | np.ndarray) -> Tensor:
    """Sum the bits of an array, as whole numbers, and sum them times their places.

    Both sums are modulo 2^64, so they depend on no order, and are those of every device.

    Parameters
    ----------
    array : Tensor or ndarray
        Of any type of numbers.

    Returns
    -------
    Tensor, shape (2,), int64
        On the array's device.
    """
    words = _words(array)
    total = torch.zeros(2, dtype=torch.int64, device=words.device)
    size = CHUNK if words.device.type == "cpu" else LARGE_CHUNK
    places = torch.arange(1, min(len(words), size) + 1, device=words.device)
    for first in range(0, len(words), size):
        part = words[first : first + size].to(torch.int64)
        plain = part.sum()
        total += torch.stack([plain, (part * places[: len(part)]).sum() + first * plain])
    return total


def _summed(array: Tensor | np.ndarray) -> Tensor | None:
    """Sum up an array; None of one whose bits are not to be had, as where it is spread out."""
    try:
        return checksum(array)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None


def _words(array: Tensor | np.ndarray) -> Tensor:
    """Return an array's bits as words (W,), of eight bytes each where they fill such."""
    if isinstance(array, np.ndarray):
        raw = np.ascontiguousarray(array)
        array = torch.from_numpy(raw if raw.flags.writeable else raw.copy())
    plain = array.detach().resolve_conj().resolve_neg()
    plain = torch.view_as_real(plain) if plain.is_complex() else plain
    flat = plain.contiguous().view(-1)
    flat = flat.view(WORDS[flat.itemsize])
    if flat.itemsize == 8 or len(flat) * flat.itemsize % 8:
        return flat
    begin = flat.storage_offset() * flat.itemsize
    return (flat.clone() if begin % 8 else flat).view(torch.int64)


def _arrays(network: Any) -> Iterator[tuple[str, Tensor | np.ndarray]]:
    for name, held in contents(network):
        if isinstance(held, nn.Module):
            for key, weight in sorted(held.state_dict().items()):
                if isinstance(weight, Tensor):
                    yield f"{name}.{key}" if name else key, weight
        elif isinstance(held, Tensor) or held.dtype.kind in "biufc":
            yield name, held
