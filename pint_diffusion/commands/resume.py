"""The settings of a run that is resumed: what may differ is said where the option is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pint_diffusion.errors import InputError
from pint_diffusion.methods.method import Sliced
from pint_diffusion.options import Options
from pint_diffusion.settings.flags import Flag, flags_of
from pint_diffusion.settings.reading import read_flat
from pint_diffusion.settings.resume import Resume
from pint_diffusion.store.restart import read_start


def settings_of(folder: Path, arguments: Sequence[str]) -> Resume:
    """Return the settings of a run, with what flags say of those that may differ.

    Raises
    ------
    InputError
        If there is no run, or if a flag would make it another one.
    """
    config, _, bounds = read_start(folder)
    config = {name: value for name, value in config.items() if name not in ("out", "force")}
    try:
        before = Resume(**config)
    except InputError as error:
        raise InputError(f"the run in {folder} has settings that can't be used: {error}") from error
    flat = read_flat(Resume, arguments, config)
    settings = Resume.from_flat(config, **flat)
    chosen = {name: type(getattr(settings, name)) for name in Resume.choices}
    for flag in flags_of(Resume, chosen):
        refuse_difference(flag, flag.of(before), flag.of(settings), folder)
    method = settings.method
    if isinstance(method, Sliced):
        # The bounds say where slices begin, on any number of ranks; nothing else may say so too.
        divided = {"bounds": bounds, "slices": None, "slicing": "even"}
        method = method.model_copy(update=divided)
    return settings.model_copy(update={"out": folder, "method": method})


def refuse_difference(flag: Flag, old: Any, new: Any, folder: Path) -> None:
    """Refuse a flag that would make a run another one.

    Raises
    ------
    InputError
        If its value is new, and may not be.
    """
    if old == new or flag.resume == "free":
        return
    if flag.resume == "new":
        raise InputError(f"resume goes on in the run's own folder, and takes no `{flag.name}`")
    raise InputError(
        f"`{flag.name}` is {told(new)}, but the run in {folder} has {told(old)}: leave it out, or "
        "begin another run"
    )


def told(value: Any) -> Any:
    """Return a value as one writes it; of a method or a solver the name."""
    kind = value if isinstance(value, type) else type(value)
    return kind.registry.name_of(kind) if issubclass(kind, Options) else value
