"""Sampling methods: coroutines only, no transports. A new method is one file and one line here."""

from __future__ import annotations

from pint_diffusion.methods.chords import Chords
from pint_diffusion.methods.method import Method
from pint_diffusion.methods.parareal import Parareal
from pint_diffusion.methods.rounds.paradigms import ParaDiGMS
from pint_diffusion.methods.rounds.parataa import ParaTAA
from pint_diffusion.methods.rounds.piadm import PIADM
from pint_diffusion.methods.rounds.window import Window
from pint_diffusion.methods.sequential import Sequential

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (Parareal, Sequential, ParaDiGMS, ParaTAA, PIADM, Window, Chords)
}
"""Methods by the name they have on the command line."""

__all__ = ["METHODS", "Method", *(method.__name__ for method in METHODS.values())]
