"""The settings of a run that is resumed: what may differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pint_diffusion.errors import InputError
from pint_diffusion.settings.reading import parse
from pint_diffusion.settings.run import Settings
from pint_diffusion.store.restart import read_start

MAY_DIFFER = (
    *("tolerance", "max_iterations", "placement", "batching", "device", "threads", "transport"),
    *("watchdog", "checkpoint_every", "warmup", "verify", "stream", "print_config"),
)
"""Settings that change when or where something is computed, or how long, but not what."""

OF_NEW_RUNS = ("out", "force", "config")
"""Settings of a run that begins."""


def settings_of(folder: Path, flags: Sequence[str]) -> Settings:
    """Return the settings of a run, with what flags say of those that may differ.

    Raises
    ------
    InputError
        If there is no run, or if a flag would make it another one.
    """
    config, there, bounds = read_start(folder)
    config = {name: value for name, value in config.items() if name not in ("out", "force")}
    before = Settings(**config)
    settings = parse(Settings, flags, **config)
    for name in Settings.model_fields:
        old, new = getattr(before, name), getattr(settings, name)
        free = name in MAY_DIFFER
        if old != new and name in OF_NEW_RUNS:
            raise InputError(f"resume goes on in the run's own folder, and takes no --{name}")
        if (
            name == "tolerance" and there["counts"] == "points"
        ):  # points that have settled stay where they are
            free, old = False, there["tolerance"]
            new = old if new is None else new
        if not free and old != new:
            raise InputError(
                f"--{name.replace('_', '-')} is {new}, but the run in {folder} has {old}: leave it "
                "out, or begin another run"
            )
    # The bounds say where slices begin, on any number of ranks; nothing else may say so too.
    divided = {"bounds": bounds, "slices": None, "slicing": "even"}
    return settings.model_copy(update={"out": folder, **divided})
