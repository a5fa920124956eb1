"""Settings of a command: how they are read from flags and YAML, and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from pint_diffusion.errors import InputError
from pint_diffusion.options import FREE, NEW, Options, plain
from pint_diffusion.settings import flags, help
from pint_diffusion.small_file import read_small_file
from pint_diffusion.yaml_text import Yaml, dump_yaml, parse_yaml

Parsed = TypeVar("Parsed", bound="CommandSettings")

OF_READING: dict[str, Any] = {"group": "options", "of_reading": True}
"""``json_schema_extra`` of what says how settings are read, and is none of them."""


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
        names = [name for name in self.stated() if not flags.extra(fields[name]).get("of_reading")]
        values = plain(self)
        return {name: values[name] for name in sorted(names, key=self._place)}

    def _place(self, name: str) -> int:
        return flags.place_of(flags.group_of(type(self), name))

    def to_yaml(self) -> str:
        """Every setting as YAML, to be read back by ``--config``."""
        return dump_yaml(self.told())

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
        json_schema_extra=OF_READING | NEW,
    )
    print_config: bool = Field(
        False,
        description="print the settings as YAML and end",
        json_schema_extra=OF_READING | FREE,
    )


def parse(kind: type[Parsed], arguments: Sequence[str]) -> Parsed:
    """Read settings of a command: defaults, then those in the file of ``--config``, then flags.

    Raises
    ------
    InputError
        One sentence about the first thing that is wrong.
    """
    first, _ = flags.read(first_flags(kind, "config"), arguments)
    file = read_config(Path(first["config"]), kind) if "config" in first else Yaml({}, {})
    flat: dict[str, Any] = {}
    try:
        flat = read_flat(kind, arguments, file.values)
        return kind.from_flat(file.values, **flat)
    except InputError as error:
        if error.field in by_place(kind):
            raise InputError(str(error).replace(f"`{error.field}`", error.field.upper())) from error
        line = None if error.field in flat else line_of(file, error.field, kind.choices)
        if line is None:
            raise
        raise InputError(f"`config` {first['config']}, line {line}: {error}") from error


def by_place(kind: type[CommandSettings]) -> list[str]:
    """Return the names of the settings that are given by their place, without a flag."""
    return [flag.name for flag in flags.flags_of(kind, {}) if flag.takes_place]


def line_of(file: Yaml, field: str | None, choices: Mapping[str, Any]) -> int | None:
    """Return the line of an option, called as in an error; None if it is not there.

    Options of what is chosen have their own name there, and those of other objects a prefix.
    """
    own = {path: path[-1] if len(path) > 2 or path[0] in choices else "" for path in file.lines}
    for path, line in file.lines.items():
        if field in ("_".join(path), own[path]):
            return line
    return None


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
    return help.help_text(kind, chosen, kind.choices, "--help-all" in arguments)


def read_config(path: Path, kind: type[CommandSettings]) -> Yaml:
    """Read a YAML file of settings.

    Raises
    ------
    InputError
        If the file can't be read or holds anything but known settings.
    """
    try:
        file = parse_yaml(read_small_file(path))
    except ValueError as error:
        raise InputError(f"`config` {path} can't be read: {error}") from None
    if not isinstance(file.values, dict):
        raise InputError(f"`config` {path} must hold lines like 'steps: 64'")
    fields = kind.model_fields
    known = [name for name in kind.stated() if not flags.extra(fields[name]).get("of_reading")]
    for key in file.values:
        if key not in known:
            raise InputError(
                f"`config` {path}, line {file.lines[key,]}: unknown key {key!r}; known are "
                f"{', '.join(known)}"
            )
    return file
