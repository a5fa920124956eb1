"""Whose code a run in a folder may have run: the user's own, as it was when the run began.

A master file names a factory, a method or a solver of a third party, and going on with the run runs
it. Somebody who can write the file could name any code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pint_diffusion import third_party
from pint_diffusion.errors import InputError
from pint_diffusion.models.kinds import absolute, runs_code
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.names import MANIFEST, MASTER


def named_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what nested settings name that is code of a third party, by the option's name."""
    return dict(_named_code(config, ()))


def _named_code(config: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        path = above if name == "name" else (*above, str(name))
        if isinstance(value, Mapping):
            yield from _named_code(value, path)
        elif not isinstance(value, str) or ":" not in value:
            continue
        elif name in ("name", "method", "solver") or (name == "model" and runs_code(value)):
            yield "_".join(path), value


def refuse_strange_code(
    folder: Directory, code: Mapping[str, str], began: list[str], again: Mapping[str, str]
) -> None:
    """Refuse code of a third party that the user can't be known to want.

    Parameters
    ----------
    folder : Directory
        Folder of the run that names the code.
    code : mapping of str to str
        What its settings name, see `named_code`.
    began : list of str
        Digest and name of the code with which the run began.
    again : mapping of str to str
        What the user names now, by the option's name.

    Raises
    ------
    InputError
        If the user does not name it, and if somebody else could have named it in the folder, or
        if it has changed since the run began.
    """
    strange = folder.strange(MASTER, MANIFEST)
    for option, spec in code.items():
        if option in again and absolute(again[option]) == spec:
            continue
        told = f"the run in {folder.path} names the code {spec} as `{option}`"
        to_do = f"if you trust it, name it yourself, `{option}` {spec}"
        if strange is not None:
            raise InputError(f"{told}, and {strange}: {to_do}, or take away their right to write")
        digest = third_party.digest(spec)
        if not digest or f"{digest} {spec}" not in began:
            raise InputError(f"{told}, which is gone or has changed since the run began: {to_do}")
