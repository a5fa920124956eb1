"""Sizes: the tensors that a network holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


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
