"""What is compared: methods with their options, by the names they have in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pint_diffusion.errors import InputError
from pint_diffusion.methods import (
    METHODS,
    PIADM,
    Chords,
    ParaDiGMS,
    Parareal,
    ParaTAA,
    Sequential,
    Window,
)
from pint_diffusion.methods.method import Method
from pint_diffusion.methods.rounds.method import MethodWithWindow

Tuned = Literal["tolerance", "iterations", "nothing"]
"""How an entry is brought to a given error: by its tolerance, by stopping at an iteration."""

Family = Callable[[Sequence[int], int, Mapping[str, Any]], list["Entry"]]
"""Makes entries for device counts, N, and the options of methods that have slices."""


@dataclass(frozen=True)
class Entry:
    """One line of the comparison.

    Attributes
    ----------
    name : str
        In the table.
    method : Method
        What is run.
    tuned : {"tolerance", "iterations", "nothing"}
        How it is brought to a given error.
    pipelined : bool
        False: as it would be with a barrier after every sweep. That is counted, not run.
    """

    name: str
    method: Method
    tuned: Tuned = "tolerance"
    pipelined: bool = True


def windows(name: str, method: Callable[..., Method]) -> Family:
    """Return a family with one entry for every size of a window."""

    def family(devices: Sequence[int], steps: int, division: Mapping[str, Any]) -> list[Entry]:
        sizes = sorted({min(size, steps) for size in devices})
        return [Entry(f"{name}, {size} points", method(window=size)) for size in sizes]

    return family


def plain(name: str, method: type[Method]) -> Family:
    """Return a family of one entry: the method with its own options."""

    def family(devices: Sequence[int], steps: int, division: Mapping[str, Any]) -> list[Entry]:
        return [Entry(name, method(**{o: division[o] for o in division if o in method.stated()}))]

    return family


FAMILIES: dict[str, Family] = {
    "sequential": lambda devices, steps, division: [
        Entry("sequential", Sequential(**division), "nothing")
    ],
    "srds": lambda devices, steps, division: [
        Entry("SRDS, not pipelined", Parareal(**division), "iterations", False),
        Entry("SRDS, root", Parareal(placement="root", **division), "iterations"),
        Entry("SRDS, slice", Parareal(placement="slice", **division), "iterations"),
    ],
    "paradigms": windows("ParaDiGMS", ParaDiGMS),
    "window": windows("window", Window),
    "parataa": windows("ParaTAA", ParaTAA),
    "piadm": lambda devices, steps, division: [
        Entry(f"PIADM, {way}", PIADM(schedule=way, **division)) for way in ("blocks", "diagonal")
    ],
    "chords": lambda devices, steps, division: [
        Entry(f"CHORDS, {cores} cores", Chords(cores=cores), "iterations")
        for cores in sorted({max(1, min(size, steps // 2)) for size in devices})
    ],
}
"""Entries by the name of their family; a method that is in none has one of its own."""

FAMILIES |= {
    name: windows(name, method) if issubclass(method, MethodWithWindow) else plain(name, method)
    for name, method in METHODS.items()
    if name not in FAMILIES and method is not Parareal
}


def entries(
    names: Sequence[str] | None, devices: Sequence[int], steps: int, division: Mapping[str, Any]
) -> list[Entry]:
    """Return the entries of some families, the sequential sampler first.

    Raises
    ------
    InputError
        If there is no such family.
    """
    for name in names or ():
        if name not in FAMILIES:
            raise InputError(f"`methods` has {name!r}: it is one of {', '.join(FAMILIES)}")
    wanted = FAMILIES if names is None else dict.fromkeys(["sequential", *names])
    return [entry for name in wanted for entry in FAMILIES[name](devices, steps, division)]
