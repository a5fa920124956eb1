"""Sampling methods: coroutines only, no transports. A new method is one file and one line here."""

from __future__ import annotations

from pint_diffusion.methods.chords import CHORDS
from pint_diffusion.methods.method import Method
from pint_diffusion.methods.parareal import parareal
from pint_diffusion.methods.rounds.paradigms import PARADIGMS
from pint_diffusion.methods.rounds.parataa import PARATAA
from pint_diffusion.methods.rounds.piadm import PIADM
from pint_diffusion.methods.rounds.window import WINDOW
from pint_diffusion.methods.sequential import sequential

METHODS: dict[str, Method] = {
    "sequential": Method(sequential),
    "parareal": Method(parareal),
    "paradigms": PARADIGMS,
    "parataa": PARATAA,
    "piadm": PIADM,
    "window": WINDOW,
    "chords": CHORDS,
}
"""Methods by the name they have on the command line."""
