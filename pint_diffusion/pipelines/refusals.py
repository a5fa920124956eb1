"""What is refused, in a sentence each, before a network is evaluated."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from pint_diffusion.errors import InputError
from pint_diffusion.pipelines.standins import is_scheduler


def refusal(pipe: Any, why: str) -> InputError:
    """Return what to raise for a pipeline whose loop can't be walked in any order."""
    return InputError(f"`pipe` is a {type(pipe).__name__}, and can't be run in parallel: {why}")


def check_pipeline(pipe: Any) -> None:
    """Refuse a pipeline by what its components are.

    Raises
    ------
    InputError
        If it is none, has no scheduler, or keeps something from step to step that is no state.
    """
    if not (isinstance(getattr(pipe, "components", None), dict) and callable(pipe)):
        raise InputError(f"`pipe` is a {type(pipe).__name__}, which is no pipeline of diffusers")
    components = pipe.components
    if not any(map(is_scheduler, components.values())):
        raise refusal(pipe, "it has no scheduler that makes steps")
    for name, component in components.items():
        if getattr(component, "is_cache_enabled", False):
            raise refusal(
                pipe,
                f"its {name} keeps a cache from step to step, so call `disable_cache()` first",
            )
        guides = hasattr(component, "set_state")
        if guides and any("momentum" in name and value for name, value in vars(component).items()):
            raise refusal(
                pipe,
                f"its {name}, a {type(component).__name__}, has a momentum from step to step, so "
                "give it none or take another guider",
            )


def check_call(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a call that are about every step as it is made.

    Raises
    ------
    InputError
        If there are such arguments.
    """
    for name in ("callback_on_step_end", "callback"):
        if arguments.get(name) is not None:
            raise refusal(pipe, f"`{name}` is called after each step, and steps have no order here")


def check_place(pipe: Any, function: Any, line: int) -> None:
    """Refuse a pipeline whose loop over the timesteps, in a line of its file, is inside another.

    Raises
    ------
    InputError
        If it is.
    """
    try:
        lines, first = inspect.getsourcelines(function)
    except OSError:  # no source, so nothing is known
        return
    tree = ast.parse(textwrap.dedent("".join(lines)))
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While)]
    around = [node for node in loops if node.lineno <= line - first + 1 <= (node.end_lineno or 0)]
    if len(around) > 1:
        raise refusal(pipe, "its loop over the timesteps is inside another loop")
