"""Sampling methods: coroutines, no transports. A new method is one file and its import here."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from pint_diffusion.methods.chords import Chords
from pint_diffusion.methods.method import Method
from pint_diffusion.methods.parareal import Parareal
from pint_diffusion.methods.rounds.paradigms import ParaDiGMS
from pint_diffusion.methods.rounds.parataa import ParaTAA
from pint_diffusion.methods.rounds.piadm import PIADM
from pint_diffusion.methods.rounds.window import Window
from pint_diffusion.methods.sequential import Sequential
from pint_diffusion.options import Registry

METHODS = Registry(Method, globals())  # type: ignore[type-abstract]
"""Methods by the name they have on the command line."""

AnyMethod = Annotated[Method, BeforeValidator(METHODS.make)]
"""Type of a field with a method: an object, a name, or a mapping of name and options."""

__all__ = ["METHODS", "AnyMethod", "Method", *(method.__name__ for method in METHODS.values())]
