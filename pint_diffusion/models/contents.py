"""What a network holds: its modules, tensors and arrays, wherever they are; and their mode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor, nn

from pint_diffusion.errors import InputError, reason

Held: TypeAlias = nn.Module | Tensor | np.ndarray

DEPTH = 4
"""Objects within objects that are looked into."""

PLAIN = (int, float, complex, str, bytes, type, ModuleType)


def contents(network: Any) -> Iterator[tuple[str, Held]]:
    """Find the modules, tensors and arrays that an object is, or holds.

    They are looked for in attributes, also those of its class, in lists and dicts, in what a
    method or a partial function is bound to, and in what a function has from around it. A module
    stands for all that is registered in it.

    Parameters
    ----------
    network : object
        Any.

    Yields
    ------
    name : str
        Where it is, as Python writes it.
    held : Module, Tensor or ndarray
        Each once.
    """
    yield from _walk(network, "", DEPTH, set())


def _walk(thing: Any, name: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Held]]:
    if thing is None or isinstance(thing, PLAIN) or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Held):
        yield name, thing
        return
    for key, part, deeper in _parts(thing):
        if not deeper or depth:
            told = f"{name}{key}" if key.startswith("[") or not name else f"{name}.{key}"
            yield from _walk(part, told, depth - deeper, seen)


def _parts(thing: Any) -> Iterator[tuple[str, Any, bool]]:
    """What an object holds: names, things, and whether they lie deeper than it does."""
    if isinstance(thing, dict):
        yield from ((f"[{key!r}]", thing[key], False) for key in sorted(thing, key=str))
    elif isinstance(thing, list | tuple):
        yield from ((f"[{i}]", part, False) for i, part in enumerate(thing))
    elif isinstance(thing, partial):
        yield from (("func", thing.func, False), ("args", thing.args, False))
        yield "keywords", thing.keywords, False
    elif isinstance(thing, MethodType):
        yield "__self__", thing.__self__, False
    elif isinstance(thing, FunctionType):
        cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
        yield from ((key, _inside(cell), True) for key, cell in cells)
    elif hasattr(thing, "__dict__"):
        yield from ((key, part, True) for key, part in sorted(vars(thing).items()))
        for key, part in (item for base in type(thing).__mro__ for item in vars(base).items()):
            if isinstance(part, Held) or key == "__call__":
                yield key, part, True


def _inside(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing has been put into it yet
        return None


def put_into_evaluation_mode(network: Any) -> None:
    """Put every module that a network is or holds into evaluation mode.

    Raises
    ------
    InputError
        If one acts differently in training, and refuses.
    """
    for name, held in contents(network):
        if isinstance(held, nn.Module) and any(one.training for one in held.modules()):
            try:
                held.eval()
            except Exception as error:  # an exported graph has no modes
                if layer := acts_differently(held):
                    raise InputError(
                        f"its {_told(name, held)} is in training mode with {layer}, and can't be "
                        f"put into evaluation mode ({reason(error)})"
                    ) from error


def refuse_training(network: Any) -> None:
    """Refuse a network of the caller's own that acts differently in training, and is in that mode.

    Raises
    ------
    InputError
        Naming the module and the layer.
    """
    for name, held in contents(network):
        if isinstance(held, nn.Module) and (layer := acts_differently(held)):
            raise InputError(
                f"its {_told(name, held)} is in training mode, where {layer} makes an output "
                "depend on other rows or on random numbers: call eval() on it"
            )


def acts_differently(module: nn.Module) -> str | None:
    """Name a layer, within a module in training mode, that makes it act differently there."""
    for name, one in module.named_modules():
        if one.training and (_uses_batch(one) or _draws(one)):
            return f"the {type(one).__name__}{f' {name}' if name else ''}"
    return None


def _uses_batch(layer: nn.Module) -> bool:
    norms = nn.modules.batchnorm._NormBase
    batch = nn.modules.batchnorm._BatchNorm
    return isinstance(layer, norms) and (isinstance(layer, batch) or layer.track_running_stats)


def _draws(layer: nn.Module) -> bool:
    """Whether it has a rate of dropout, by its type or by the name of a number."""
    if isinstance(layer, nn.RReLU):
        return True
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    rates = (value for name, value in vars(layer).items() if "drop" in name.lower())
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _told(name: str, held: nn.Module) -> str:
    return f"{type(held).__name__}{f' {name}' if name else ''}"
