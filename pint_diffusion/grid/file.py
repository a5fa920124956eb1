"""Grid files: noise levels and slice boundaries in YAML, written by hand or by a command.

::

    sigma: [80, 24.4, 5.8, 0.9, 0.14, 0]  # N + 1 levels, noisiest first
    bounds: [0, 2, 5]                     # optional: slice boundaries as step indices
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from pint_diffusion.errors import InputError
from pint_diffusion.grid.level import Level
from pint_diffusion.grid.schedule import NoiseSchedule, Schedule
from pint_diffusion.grid.slicing import check_bounds
from pint_diffusion.small_file import read_small_file
from pint_diffusion.yaml_text import dump_yaml, parse_yaml

MOST_LEVELS = 300_000
"""Of a file that is written: what `read_small_file` reads has room for them."""

KEYS = ("t", "sigma", "alpha_bar", "bounds")


def read_grid(path: Path, schedule: Schedule) -> tuple[tuple[Level, ...], tuple[int, ...] | None]:
    """Read a grid file.

    Parameters
    ----------
    path : Path
        YAML with the levels as ``t``, ``sigma`` = s / a, or ``alpha_bar``. Beside one of the
        latter two, ``t`` has the timesteps that the network takes. ``bounds`` is optional.
    schedule : Schedule
        Converts between t and the other two.

    Returns
    -------
    levels : tuple of Level
        N + 1 levels, noisiest first.
    bounds : tuple of int or None
        M + 1 step indices.

    Raises
    ------
    InputError
        If the file can't be read or holds anything else, or if its levels leave the schedule or
        do not get cleaner from one to the next.
    """
    values = _load(path)
    unknown = [key for key in values if key not in KEYS]
    if unknown:
        raise _wrong(path, f"has an unknown key {unknown[0]!r}; known are {', '.join(KEYS)}")
    given = [key for key in ("sigma", "alpha_bar") if key in values]
    if len(given) == 2 or (not given and "t" not in values):
        raise _wrong(path, "must give its levels as one of t, sigma and alpha_bar")
    kind = given[0] if given else "t"
    numbers = _numbers(path, kind, values[kind])
    if (np.diff(numbers) <= 0).any() if kind == "alpha_bar" else (np.diff(numbers) >= 0).any():
        goes = "rise" if kind == "alpha_bar" else "fall"
        raise _wrong(path, f"is not monotone: its {kind} must {goes} strictly")
    if kind == "sigma" and numbers[-1] < 0:
        raise _wrong(path, f"has a sigma below 0, {numbers[-1]:g}")
    try:
        if kind == "t":
            t, alpha_bar = numbers, schedule.alpha_bar(numbers)
        else:
            with np.errstate(over="ignore"):  # sigma may be infinite: pure noise
                alpha_bar = 1 / (1 + numbers**2) if kind == "sigma" else numbers
            t = schedule.timestep(alpha_bar)
    except InputError as error:
        raise _wrong(path, f"leaves the schedule: {error}") from None
    if (np.diff(alpha_bar) <= 0).any():
        raise _wrong(path, f"has two values of {kind} too close to be different levels")
    if given and "t" in values:
        t = _timesteps(path, values["t"], t, schedule)
    levels = tuple(Level(float(a), float(b)) for a, b in zip(t, alpha_bar, strict=True))
    return levels, _bounds(path, values.get("bounds"), len(levels) - 1)


def write_grid(
    path: Path, levels: Sequence[Level], bounds: Sequence[int] | None, about: Sequence[str] = ()
) -> None:
    """Write a grid file that `read_grid` reads back to the bit.

    Parameters
    ----------
    path : Path
        The file to write; an old one is overwritten.
    levels : sequence of Level
        N + 1 levels, noisiest first.
    bounds : sequence of int or None
        M + 1 step indices.
    about : sequence of str
        Lines of a comment at the top.

    Raises
    ------
    InputError
        If there are more than `MOST_LEVELS`, or if the file can't be written.
    """
    if len(levels) > MOST_LEVELS:
        raise InputError(
            f"a grid file has at most {MOST_LEVELS} levels, and these are {len(levels)}"
        )
    values: dict[str, Any] = {
        "t": [level.t for level in levels],
        "alpha_bar": [level.alpha_bar for level in levels],
    }
    if bounds is not None:
        values["bounds"] = list(bounds)
    text = "".join(f"# {line}\n" for line in about)
    text += dump_yaml(values, default_flow_style=None, width=99)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from None


def _load(path: Path) -> dict[Any, Any]:
    try:
        values = parse_yaml(read_small_file(path)).values
    except ValueError as error:
        raise _wrong(path, f"can't be read: {error}") from None
    if values is None:
        raise _wrong(path, "is empty; it must give the levels, as in 'sigma: [80, 5, 0.5, 0]'")
    if not isinstance(values, dict):
        raise _wrong(path, "must hold lines like 'sigma: [80, 5, 0.5, 0]'")
    return values


def _numbers(path: Path, key: str, given: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    if not isinstance(given, list) or len(given) < 2:
        raise _wrong(path, f"needs a list of at least two levels under {key}")
    numbers = []
    for entry in given:
        if not isinstance(entry, int | float) or isinstance(entry, bool):
            raise _wrong(path, f"has {entry!r} under {key}, which is no number")
        numbers.append(float(entry))
        if isnan(numbers[-1]):
            raise _wrong(path, f"has NaN under {key}")
    return np.array(numbers, dtype=np.float64)


def _timesteps(
    path: Path, given: Any, own: np.ndarray[Any, np.dtype[np.float64]], schedule: Schedule
) -> np.ndarray[Any, np.dtype[np.float64]]:
    t = _numbers(path, "t", given)
    if t.size != own.size:
        raise _wrong(path, f"has {t.size} values of t for {own.size} levels")
    if (np.diff(t) > 0).any():
        raise _wrong(path, "is not monotone: its t must not rise")
    try:
        schedule.alpha_bar(t)
    except InputError as error:
        raise _wrong(path, f"leaves the schedule: {error}") from None
    # a timestep may be rounded to a whole one
    allowed = 1.0 if isinstance(schedule, NoiseSchedule) else 0.01 * own + 1e-6 * schedule.first
    wrong = np.abs(t - own) > allowed
    wrong[-1] = False  # nothing is evaluated there
    if wrong.any():
        i = int(wrong.argmax())
        raise _wrong(
            path,
            f"tells the network t = {t[i]:g} at a level that its own schedule puts at {own[i]:g}: "
            "it was made for another network, so leave its t out or make it anew",
        )
    return t


def _bounds(path: Path, given: Any, steps: int) -> tuple[int, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(type(entry) is int for entry in given):
        raise _wrong(path, "needs a list of step indices under bounds, as in 'bounds: [0, 4, 9]'")
    try:
        check_bounds(given, steps)
    except InputError as error:
        raise _wrong(path, f"has wrong bounds: {error}") from None
    return tuple(given)


def _wrong(path: Path, what: str) -> InputError:
    return InputError(f"grid file {path} {what}")
