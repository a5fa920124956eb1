"""Stand-ins that a pipeline's own ``__call__`` meets: networks, schedulers, its loop.

Nothing of diffusers and nothing of the user's is changed: the stand-ins live in a shallow copy of
the pipeline, and the function that runs is a copy too, with an ``enumerate`` of its own.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Called = Callable[..., Any]


class Network:
    """Stands in for a module: its calls go to ``call(name, module, args, kwargs)``.

    All else is the module's own, so that hooks, adapters, compiled code and attention processors
    act as they do without it.
    """

    def __init__(self, name: str, module: torch.nn.Module, call: Called) -> None:
        self.__dict__.update(_stands_for=module, _name=name, _call=call)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._stands_for)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stands_for, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._stands_for, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module, or what is called instead of it."""
        return self._call(self._name, self._stands_for, args, kwargs)


def scheduler_like(scheduler: Any, step: Called) -> Any:
    """Return a copy of a scheduler whose steps go to ``step(scheduler, real step, args, kwargs)``.

    It is of a subclass, so that copies which the pipeline makes of it go there too.
    """
    kind = type(scheduler)

    @functools.wraps(kind.step)
    def ours(self: Any, *args: Any, **kwargs: Any) -> Any:
        return step(self, functools.partial(kind.step, self), args, kwargs)

    new = copy.deepcopy(scheduler)
    new.__class__ = type(kind.__name__, (kind,), {"step": ours, "__module__": kind.__module__})
    return new


def is_scheduler(component: Any) -> bool:
    """Return whether a component of a pipeline is what makes its steps."""
    return hasattr(component, "set_timesteps") and callable(getattr(component, "step", None))


def own_call(pipe: Any, count: Called) -> Callable[..., Any]:
    """Return the pipeline's ``__call__`` as a function in which ``enumerate`` is ``count``."""
    function = inspect.unwrap(type(pipe).__call__)
    names = {**function.__globals__, "enumerate": count}
    new = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    new.__kwdefaults__ = function.__kwdefaults__
    return new


def is_part(steps: Any, timesteps: Any) -> bool:
    """Return whether a tensor holds timesteps of a scheduler, without a gap and in its order."""
    if not (isinstance(steps, Tensor) and isinstance(timesteps, Tensor)):
        return False
    if steps.ndim != 1 or timesteps.ndim != 1 or not 0 < len(steps) <= len(timesteps):
        return False
    windows = timesteps.detach().cpu().double().unfold(0, len(steps), 1)
    return bool((windows == steps.detach().cpu().double()).all(dim=1).any())
