"""Settings that are read from flags and YAML: how, and what is said of wrong ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pint_diffusion.errors import InputError

Parsed = TypeVar("Parsed", bound="FromCommandLine")

OWN_FLAGS = ("config", "print_config")
"""Settings that are about how settings are read, and stand in no file of them."""


class FromCommandLine(BaseSettings):
    """Settings that are read from flags, and never from environment variables."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is given; flags override it."""
        return (init_settings,)


def parse(kind: type[Parsed], arguments: Sequence[str], **given: Any) -> Parsed:
    """Read settings of a kind from flags over ``given`` values.

    Raises
    ------
    InputError
        One sentence about the first thing that is wrong.
    """
    try:
        return kind(_cli_parse_args=list(arguments), **given)
    except SettingsError as error:
        reason = str(error).removeprefix("error parsing CLI: ")
        raise InputError(f"{reason}; see {_help(kind)}") from None
    except ValidationError as error:
        raise InputError(_sentence(error, kind, given)) from None


def parse_over_file(kind: type[Parsed], arguments: Sequence[str]) -> Parsed:
    """Read settings of a kind: defaults, then the YAML file of ``--config``, then flags.

    Raises
    ------
    InputError
        One sentence about the first thing that is wrong.
    """
    settings = parse(kind, arguments)
    file: Path | None = getattr(settings, "config", None)
    if file is None:
        return settings
    known = [name for name in kind.model_fields if name not in OWN_FLAGS]
    return parse(kind, arguments, **read_yaml(file, known))


def _help(kind: type[FromCommandLine]) -> str:
    return f"{kind.model_config['cli_prog_name']} --help"


def _sentence(error: ValidationError, kind: type[FromCommandLine], given: dict[str, Any]) -> str:
    """Say what is wrong with one setting, whichever of its types it failed."""
    errors = error.errors()
    first = errors[0]
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ")
    name = str(first["loc"][0])
    expected = " or ".join(
        dict.fromkeys(
            re.split(", (?:unable|got)", e["msg"].replace("Input should be ", ""))[0]
            for e in errors
            if e["loc"][0] == name
        )
    )
    if first["type"] == "missing":
        return f"{name.upper()} is missing; see {_help(kind)}"
    source = "--config: " if name in given else "--"
    return f"{source}{name.replace('_', '-')} is {first['input']!r}, but must be {expected}"


def read_yaml(path: Path, known: Sequence[str]) -> dict[str, Any]:
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
        raise InputError(f"--config {path} can't be read: {reason}") from None
    if not isinstance(values, dict):
        raise InputError(f"--config {path} must hold lines like 'steps: 64'")
    unknown = [key for key in values if key not in known]
    if unknown:
        raise InputError(
            f"--config {path} has an unknown key {unknown[0]!r}; known are {', '.join(known)}"
        )
    return values
