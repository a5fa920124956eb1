"""Settings of a command: how they are read from flags and YAML, and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import Field

from pint_diffusion.errors import InputError
from pint_diffusion.options import Options, plain, said_of
from pint_diffusion.settings import flags

Parsed = TypeVar("Parsed", bound="CommandSettings")


class CommandSettings(Options):
    """What a command is told: from Python by nested values, on the command line by flags.

    Attributes
    ----------
    program, name : str
        Of the command.
    choices : dict
        Where the classes are that a setting names, by the name of the setting. Their options are
        flags too.
    group : str
        Under which help lists the settings that name none.
    """

    program: ClassVar[str] = "pint-diffusion"
    kind: ClassVar[str] = "command"
    group: ClassVar[str] = "options"
    choices: ClassVar[dict[str, Any]] = {}

    def told(self) -> dict[str, Any]:
        """Return every setting, as YAML has them, in the order of help."""
        fields = type(self).model_fields
        names = [name for name in self.stated() if not said_of(fields[name]).get("of_reading")]
        values = plain(self)
        return {name: values[name] for name in sorted(names, key=self._place)}

    def _place(self, name: str) -> int:
        return flags.place_of(flags.group_of(type(self), name))

    def to_yaml(self) -> str:
        """Every setting as YAML, to be read back by ``--config``."""
        return yaml.safe_dump(self.told(), sort_keys=False)

    @classmethod
    def chosen(cls, flat: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, type[Options]]:
        """Return the classes that flags, or else ``base``, or else defaults choose.

        Raises
        ------
        InputError
            If there is no such class.
        """
        found = {}
        for name, registry in cls.choices.items():
            value = flat.get(name, base.get(name, cls.model_fields[name].default))
            found[name] = registry.kind_of(value)
        return found

    @classmethod
    def from_flat(cls: type[Parsed], base: Mapping[str, Any] | None = None, **flat: Any) -> Parsed:
        """Make settings of values by the names of their flags, over nested ones.

        Parameters
        ----------
        base : mapping, optional
            Nested settings.
        flat
            Values, such as ``coarse_steps=2``.

        Raises
        ------
        InputError
            If there is no such flag, or if a value is wrong.
        """
        base = dict(base or {})
        chosen = cls.chosen(flat, base)
        for name, registry in cls.choices.items():
            if not isinstance(base.get(name), Mapping | Options):
                base[name] = {"name": registry.name_of(chosen[name])}
        known = flags.flags_of(cls, chosen)
        for name in flat.keys() - {flag.name for flag in known}:
            flags.refuse_unknown("--" + name.replace("_", "-"), cls, chosen, cls.choices)
        return cls(**flags.nested(known, flat, base))


class FromFile(CommandSettings):
    """Settings of a command that may be in a YAML file."""

    config: Path | None = Field(
        None,
        description="YAML file with any of these settings",
        json_schema_extra={"group": "options", "resume": "new", "of_reading": True},
    )
    print_config: bool = Field(
        False,
        description="print the settings as YAML and end",
        json_schema_extra={"group": "options", "resume": "free", "of_reading": True},
    )


def parse(kind: type[Parsed], arguments: Sequence[str]) -> Parsed:
    """Read settings of a command: defaults, then those in the file of ``--config``, then flags.

    Raises
    ------
    InputError
        One sentence about the first thing that is wrong.
    """
    first, _ = flags.read(first_flags(kind, "config"), arguments)
    base = read_yaml(Path(first["config"]), kind) if "config" in first else {}
    flat: dict[str, Any] = {}
    try:
        flat = read_flat(kind, arguments, base)
        return kind.from_flat(base, **flat)
    except InputError as error:
        if base and error.field not in flat:
            raise InputError(f"`config` {first['config']}: {error}") from None
        raise


def first_flags(kind: type[CommandSettings], *more: str) -> list[flags.Flag]:
    """Return the flags that say which others there are."""
    names = [name for name in (*kind.choices, *more) if name in kind.model_fields]
    return [flags.Flag(name, (name,), kind.model_fields[name], "") for name in names]


def read_flat(
    kind: type[CommandSettings], arguments: Sequence[str], base: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of flags by their names.

    Which flags there are depends on the method and the solver: they are looked for first.

    Raises
    ------
    InputError
        If there is no such flag, or if one lacks its value.
    """
    chosen = kind.chosen(flags.read(first_flags(kind), arguments)[0], base)
    known = flags.flags_of(kind, chosen)
    flat, rest = flags.read(known, arguments)
    if rest:
        flags.refuse_unknown(rest[0], kind, chosen, kind.choices)
    for flag in known:
        if flag.takes_place and flat.get(flag.name) is None:
            raise InputError(f"{flag.name.upper()} is missing; see {flags.command_of(kind)} --help")
    return flat


def help_of(kind: type[CommandSettings], arguments: Sequence[str]) -> str:
    """Render the help of a command, for the method and the solver that the arguments choose."""
    wanted = [one for one in arguments if one not in ("-h", "--help", "--help-all")]
    chosen = kind.chosen(flags.read(first_flags(kind), wanted)[0], {})
    return flags.help_text(kind, chosen, kind.choices, "--help-all" in arguments)


def read_yaml(path: Path, kind: type[CommandSettings]) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises
    ------
    InputError
        If the file can't be read or holds anything but known settings.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"`config` {path} can't be read: {reason}") from None
    if not isinstance(values, dict):
        raise InputError(f"`config` {path} must hold lines like 'steps: 64'")
    fields = kind.model_fields
    known = [name for name in kind.stated() if not said_of(fields[name]).get("of_reading")]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise InputError(
            f"`config` {path} has an unknown key {unknown[0]!r}; known are {', '.join(known)}"
        )
    return values
