"""Tensors inside lists, tuples, dictionaries and output objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor


def mapped(change: Callable[[Tensor], Any], tree: Any) -> Any:
    """Return a tree whose tensors are changed; its containers are new, all else is the same."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):  # an output object of diffusers or transformers is one too
        new = copy.copy(tree)
        for name, value in tree.items():
            new[name] = mapped(change, value)
        return new
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(change, one) for one in tree))
    if type(tree) in (list, tuple):
        return type(tree)(mapped(change, one) for one in tree)
    return tree


def leaves(tree: Any) -> list[Tensor]:
    """Return the tensors of a tree, in order."""
    found: list[Tensor] = []
    mapped(found.append, tree)
    return found


def copied(tree: Any) -> Any:
    """Return a tree with tensors of its own."""
    return mapped(lambda one: one.detach().clone(), tree)


def outline(tree: Any) -> Hashable:
    """Describe the shapes and dtypes in a tree; values that are no tensors count by their kind."""
    if isinstance(tree, Tensor):
        return tuple(tree.shape), tree.dtype
    if isinstance(tree, dict):
        return tuple((name, outline(value)) for name, value in tree.items())
    if isinstance(tree, list | tuple):
        return tuple(outline(one) for one in tree)
    return type(tree).__name__


def hollow(tree: Any) -> Any:
    """Return a tree whose tensors keep shape, dtype and device but no memory; see `zeros`."""
    return mapped(lambda one: one.new_zeros(()).expand(one.shape), tree)


def zeros(tree: Any) -> Any:
    """Return a tree with zeros of the same shapes."""
    return mapped(lambda one: torch.zeros(one.shape, dtype=one.dtype, device=one.device), tree)
