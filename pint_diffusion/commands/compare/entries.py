"""What is compared: methods with their options, by the names they have in the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pint_diffusion.errors import InputError

Tuned = Literal["tolerance", "iterations", "nothing"]
"""How an entry is brought to a given error: by its tolerance, by stopping at an iteration."""


@dataclass(frozen=True)
class Entry:
    """One line of the comparison.

    Attributes
    ----------
    name : str
        In the table.
    given : dict
        Settings that differ from the common ones.
    tuned : {"tolerance", "iterations", "nothing"}
        How it is brought to a given error.
    pipelined : bool
        False: as it would be with a barrier after every sweep. That is counted, not run.
    """

    name: str
    given: dict[str, Any] = field(default_factory=dict)
    tuned: Tuned = "tolerance"
    pipelined: bool = True


def windows(name: str, method: str, sizes: Sequence[int], steps: int) -> list[Entry]:
    """Return one entry for every size of a window."""
    sizes = sorted({min(size, steps) for size in sizes})
    return [Entry(f"{name}, {size} points", {"method": method, "window": size}) for size in sizes]


FAMILIES: dict[str, Callable[[Sequence[int], int], list[Entry]]] = {
    "sequential": lambda devices, steps: [
        Entry("sequential", {"method": "sequential"}, "nothing"),
    ],
    "srds": lambda devices, steps: [
        Entry(
            "SRDS, not pipelined", {"method": "parareal", "placement": "root"}, "iterations", False
        ),
        Entry("SRDS, root", {"method": "parareal", "placement": "root"}, "iterations"),
        Entry("SRDS, slice", {"method": "parareal", "placement": "slice"}, "iterations"),
    ],
    "paradigms": lambda devices, steps: windows("ParaDiGMS", "paradigms", devices, steps),
    "window": lambda devices, steps: windows("window", "window", devices, steps),
    "parataa": lambda devices, steps: windows("ParaTAA", "parataa", devices, steps),
    "piadm": lambda devices, steps: [
        Entry(f"PIADM, {way}", {"method": "piadm", "schedule": way})
        for way in ("blocks", "diagonal")
    ],
    "chords": lambda devices, steps: [
        Entry(f"CHORDS, {cores} cores", {"method": "chords", "cores": cores}, "iterations")
        for cores in sorted({max(1, min(size, steps // 2)) for size in devices})
    ],
}
"""Entries by the name of their family, given device counts and N."""


def entries(names: Sequence[str] | None, devices: Sequence[int], steps: int) -> list[Entry]:
    """Return the entries of some families, the sequential sampler first.

    Raises
    ------
    InputError
        If there is no such family.
    """
    for name in names or ():
        if name not in FAMILIES:
            raise InputError(f"--methods has {name!r}: it is one of {', '.join(FAMILIES)}")
    wanted = FAMILIES if names is None else dict.fromkeys(["sequential", *names])
    return [entry for name in wanted for entry in FAMILIES[name](devices, steps)]
