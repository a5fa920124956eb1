"""Flags: made from the options of a command, and of the method and the solver that are chosen."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from pint_diffusion.errors import InputError
from pint_diffusion.options import Options, is_number, kinds_of, number, plain

Chosen = Mapping[str, type[Options]]
"""Class of the method and of the solver, by the name of their setting."""

GROUPS = (
    *("options", "methods", "network", "time grid", "method", "solver", "coarse solves"),
    *("corrector", "run", "files"),
)
"""Groups of flags, in the order of help."""

NETWORK: dict[str, Any] = {"group": "network"}
GRID: dict[str, Any] = {"group": "time grid"}
RUN: dict[str, Any] = {"group": "run"}
FILES: dict[str, Any] = {"group": "files"}
"""``json_schema_extra`` of settings: the group in which help lists them."""


@dataclass(frozen=True)
class Flag:
    """One setting as a flag.

    Attributes
    ----------
    name : str
        As the setting is called in Python, `coarse_steps`.
    path : tuple of str
        Where its value is in nested settings, ("coarse", "steps").
    field : FieldInfo
        Says type, default and description.
    group : str
        Under which help lists it.
    """

    name: str
    path: tuple[str, ...]
    field: FieldInfo
    group: str

    @property
    def dashed(self) -> str:
        """As it is written on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value, and has a ``--no-`` form."""
        return self.field.annotation is bool

    @property
    def takes_place(self) -> bool:
        """Whether its value is given by its place, without a flag."""
        return bool(extra(self.field).get("by_place"))

    @property
    def resume(self) -> str:
        """What `resume` does with it: "same", "free" to change, or "new", for new runs only."""
        return str(extra(self.field).get("resume", "same"))

    def value(self, text: Any) -> Any:
        """Turn the text behind a flag into what its type is made of: numbers, and lists of them."""
        if not isinstance(text, str):
            return text
        kinds = kinds_of(self.field.annotation)
        inner = [get_args(kind)[0] for kind in kinds if get_origin(kind) is tuple]
        if inner:
            parts = text.split(",")
            return list(map(number, parts)) if is_number(kinds_of(inner[0])[0]) else parts
        return number(text) if any(map(is_number, kinds)) else text

    def of(self, settings: Options) -> Any:
        """Return its value in settings; None where they have no such option."""
        found: Any = settings
        for name in self.path[:-1] if self.path[-1] == "name" else self.path:
            found = getattr(found, name, None)
        return type(found) if self.path[-1] == "name" else found


def extra(field: FieldInfo) -> Mapping[str, Any]:
    """Return what is said of a field beside its type, default and description."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def flags_of(kind: type[Options], chosen: Chosen) -> list[Flag]:
    """Return the flags of a command, given the classes that are chosen.

    An option that holds options is a flag for each of them, with their prefix; the method and the
    solver are a flag with their name, and one for each option of the class that is chosen.
    """
    flags = []
    for name in kind.stated():
        field, group = kind.model_fields[name], group_of(kind, name)
        inner = kinds_of(field.annotation)[0]
        if name in chosen:
            own = own_flags(name, chosen[name])
            flags += [Flag(name, (name, "name"), field, title(name, chosen[name])), *own]
        elif isinstance(inner, type) and issubclass(inner, Options) and not inner.registry:
            flags += [
                Flag(inner.prefix + option, (name, option), inner.model_fields[option], group)
                for option in inner.stated()
            ]
        else:
            flags.append(Flag(name, (name,), field, group))
    return flags


def own_flags(name: str, kind: type[Options]) -> list[Flag]:
    """Return the flags of the options of a method or a solver."""
    fields, group = kind.model_fields, title(name, kind)
    return [Flag(option, (name, option), fields[option], group) for option in kind.stated()]


def title(name: str, kind: type[Options]) -> str:
    """Return the group of the options of a method or a solver."""
    return f"{name} {kind.name or kind.__name__}"


def group_of(kind: type[Options], name: str) -> str:
    """Return the group of a setting of a command."""
    return str(extra(kind.model_fields[name]).get("group", getattr(kind, "group", "options")))


def place_of(group: str) -> int:
    """Return the place of a group among `GROUPS`; those of a method or a solver share theirs."""
    kind = group.split()[0]
    return GROUPS.index(group) if group in GROUPS else GROUPS.index(kind)


def nested(
    flags: Iterable[Flag], flat: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, Any]:
    """Put values by the names of their flags over nested settings.

    Options of another method, or another solver, than is chosen now are left out of ``base``.
    """
    settings = {name: given(value) for name, value in base.items()}
    for flag in sorted(flags, key=lambda flag: flag.path[-1] != "name"):
        if flag.name not in flat:
            continue
        value, (first, *rest) = flat[flag.name], flag.path
        if not rest:
            settings[first] = value
        elif rest == ["name"] and not isinstance(value, str):
            settings[first] = given(value)
        else:
            inner = dict(settings.get(first) or {})
            if rest == ["name"] and inner.get("name") != value:
                inner = {}
            settings[first] = inner | {rest[0]: value}
    return settings


def given(value: Any) -> Any:
    """Return nested settings as a mapping, whichever way they are given."""
    return plain(value) if isinstance(value, Options) else value


class Parser(argparse.ArgumentParser):
    """A parser whose errors are InputErrors."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong."""
        raise InputError(message)


def read(flags: Sequence[Flag], arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values of flags by their names, and the arguments that are none of them.

    Raises
    ------
    InputError
        If a value is missing.
    """
    parser = Parser()
    for flag in flags:
        if flag.takes_place:
            parser.add_argument(flag.name, nargs="?")
        elif flag.is_switch:
            parser.add_argument(flag.dashed, dest=flag.name, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(flag.dashed, dest=flag.name)
    found, rest = parser.parse_known_args(list(arguments))
    by_name = {flag.name: flag for flag in flags}
    return {name: by_name[name].value(text) for name, text in vars(found).items()}, rest


def refuse_unknown(
    argument: str, kind: type[Options], chosen: Chosen, registries: Mapping[str, Any]
) -> NoReturn:
    """Say of an argument that is no flag what it is, or that it is nothing.

    Raises
    ------
    InputError
        Always.
    """
    flag = argument.partition("=")[0]
    option = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
    for name, registry in registries.items():
        owners = [other.name for other in registry.values() if option in other.stated()]
        if flag.startswith("--") and owners:
            *others, last = owners
            those = f"{name}s {', '.join(others)} and {last}" if others else f"{name} {last}"
            raise InputError(
                f"`{option}` is an option of the {those}, and the {name} is "
                f"{registry.name_of(chosen[name])}, which has: {chosen[name].listed()}"
            )
    raise InputError(f"unrecognized argument: {argument}; see {command_of(kind)} --help")


def command_of(kind: type[Options]) -> str:
    """Return what a user writes to start a command."""
    return f"{getattr(kind, 'program', '')} {kind.name}".strip()


def with_flags(text: str) -> str:
    """Write the options in a sentence of the library as flags."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda found: "--" + found[1].replace("_", "-"), text)
