"""A diffusers pipeline as it is, its loop as a function of a step's number and a state."""

from __future__ import annotations

from typing import Any

from pint_diffusion.errors import InputError


def __getattr__(name: str) -> Any:
    if name != "parallelize":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import greenlet  # noqa: F401
    except ImportError:
        raise InputError(
            "`parallelize` needs greenlet, which is not there: install the extra `pipelines`"
        ) from None
    from pint_diffusion.pipelines.parallel import parallelize

    return parallelize
