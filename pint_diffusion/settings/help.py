"""Help texts: made from the flags of a command."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pint_diffusion.options import Options, kinds_of
from pint_diffusion.settings.flags import Chosen, Flag, command_of, flags_of, own_flags, place_of

WIDTH = 100
"""Of help, in characters."""


def help_text(
    kind: type[Options], chosen: Chosen, registries: Mapping[str, Any], all_: bool
) -> str:
    """Render the help of a command.

    Parameters
    ----------
    kind : type
        Settings of the command.
    chosen : mapping
        Classes whose options are listed.
    registries : mapping
        Where the others are.
    all_ : bool
        List the options of all classes.
    """
    flags = flags_of(kind, {} if all_ else chosen)
    if all_:
        flags += flags_of_all(registries)
    of_all = f"the same, for every {' and '.join(registries)}" if registries else ""
    return render(kind, flags, of_all)


def flags_of_all(registries: Mapping[str, Any]) -> list[Flag]:
    """Return the flags of every method and solver."""
    return [
        flag
        for name, registry in registries.items()
        for one in registry.values()
        for flag in own_flags(name, one)
    ]


def render(kind: type[Options], flags: Sequence[Flag], of_all: str = "", more: str = "") -> str:
    """Render usage, what a command does, and its flags in groups.

    Parameters
    ----------
    kind : type
        Settings of the command.
    flags : sequence of Flag
        What is listed.
    of_all : str
        What ``--help-all`` does; empty if there is no such flag.
    more : str
        A paragraph at the end.
    """
    places = "".join(f" {flag.name.upper()}" for flag in flags if flag.takes_place)
    lines = [f"usage: {command_of(kind)}{places} [options]", ""]
    lines += [(kind.__doc__ or "").strip().splitlines()[0]]
    groups: dict[str, list[str]] = {}
    for flag in sorted(flags, key=lambda flag: place_of(flag.group)):
        groups.setdefault(flag.group, []).extend(entry(flag))
    options = groups.setdefault("options", [])
    options += wrapped("--help", "print this and end")
    if of_all:
        options += wrapped("--help-all", of_all)
    options += wrapped("--debug", "print tracebacks and what other libraries say, too")
    alike: dict[tuple[str, ...], list[str]] = {}
    for group, entries in groups.items():
        alike.setdefault(tuple(entries), []).append(group)
    for shown, (first, *others) in alike.items():
        told = ", ".join([first, *(group.split(maxsplit=1)[1] for group in others)])
        lines += ["", *textwrap.wrap(f"{told}:", WIDTH), *shown]
    if more:
        lines += ["", *textwrap.wrap(more, WIDTH)]
    return "\n".join(lines) + "\n"


def entry(flag: Flag) -> list[str]:
    """Return the lines of a flag in a help text."""
    default = default_text(flag)
    if flag.takes_place:
        head = flag.name.upper()
    elif flag.is_switch:
        head, default = flag.dashed, ""
        if flag.field.default:
            head, default = f"--[no-]{flag.dashed[2:]}", "yes"
    else:
        head = f"{flag.dashed} {form(flag.field.annotation)}"
    shown = f" (default: {default})" if default else ""
    return wrapped(head, (flag.field.description or "") + shown)


def wrapped(head: str, text: str) -> list[str]:
    """Return an indented head, and its text in a column beside or below it."""
    first = f"  {head}"
    lines = textwrap.wrap(text, WIDTH - 26)
    if len(first) <= 24 and lines:
        return [f"{first:<26}{lines[0]}", *(" " * 26 + line for line in lines[1:])]
    return [first, *(" " * 26 + line for line in lines)]


def default_text(flag: Flag) -> str:
    """Return the default of a flag as one writes it; empty if there is none."""
    value = flag.field.get_default(call_default_factory=True)
    if isinstance(value, Options):
        return value.name
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if value is None or flag.field.is_required():
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def form(annotation: Any) -> str:
    """Return how a value of a type is written."""
    names = {int: "N", float: "X", str: "NAME"}
    shown: list[str] = []
    for kind in kinds_of(annotation):
        if get_origin(kind) is Literal:
            shown += map(str, get_args(kind))
        elif get_origin(kind) is tuple:
            shown.append(f"{form(get_args(kind)[0])},...")
        elif isinstance(kind, type) and kind.__name__.endswith("Path"):
            shown.append("PATH")
        else:
            inner = get_args(kind)[0] if get_origin(kind) else kind
            shown.append(names.get(inner, "NAME"))
    return "|".join(dict.fromkeys(shown))
