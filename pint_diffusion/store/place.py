"""Where a folder of files is to be made: what is there already."""

from __future__ import annotations

import os
from pathlib import Path

from pint_diffusion.errors import InputError
from pint_diffusion.small_file import kind_of_file


def nearest(out: Path) -> Path:
    """Return ``out``, or the closest thing above it that is there."""
    place = Path(os.path.abspath(out))
    return next(one for one in (place, *place.parents) if os.path.lexists(one))


def refuse_no_folder(out: Path) -> None:
    """Refuse a path that can't become a folder, since something else is there or above it.

    Raises
    ------
    InputError
        If it can't; in one and the same sentence for every command.
    """
    place = nearest(out)
    if place.is_dir():
        return
    try:
        kind = kind_of_file(place)
    except OSError:
        kind = "a link that leads nowhere"
    above = "" if place == Path(os.path.abspath(out)) else f"below {place}, which is "
    raise InputError(f"`out` {out} is {above}{kind}: give another folder")
