"""Settings by the names of their flags, as tests write them."""

from __future__ import annotations

from pint_diffusion.methods import METHODS
from pint_diffusion.settings.run import Settings

COARSE = {"coarse_solver", "coarse_steps", "coarse_noise", "coarse_model"}


def fitting(flat: dict) -> dict:
    """Leave out the options of methods that the one in ``flat`` does not have.

    So one dict can be given to several methods.
    """
    method = METHODS[flat.get("method", "parareal")]
    others = {name for other in METHODS.values() for name in other.stated()} - {*method.stated()}
    others |= set() if method.uses_coarse else COARSE
    return {name: value for name, value in flat.items() if name not in others}


def settings_of(**flat) -> Settings:
    """Make settings of those that fit the method."""
    return Settings.from_flat(**fitting(flat))


def flags(flat: dict) -> list[str]:
    """Write those that fit the method as flags."""
    words = []
    for name, value in fitting(flat).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else value
        dashed = name.replace("_", "-")
        words.append(f"--{'' if value is not False else 'no-'}{dashed}")
        words[-1] += "" if isinstance(value, bool) else f"={text}"
    return words
