"""Options: what a method, a solver or a command is told, validated where it is stated."""

from __future__ import annotations

import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from pint_diffusion import third_party
from pint_diffusion.errors import InputError

FREE: dict[str, Any] = {"resume": "free"}
"""``json_schema_extra`` of an option that `resume` may change: it says when or where something is
computed, or how long, but not what.
"""

NEW: dict[str, Any] = {"resume": "new"}
"""``json_schema_extra`` of an option of runs that begin, which `resume` does not take."""


LONGEST_NAME = 255
"""Most bytes of the name of a file or a folder."""


class Options(BaseModel):
    """A frozen object with validated options; the base of methods, solvers and settings.

    Positional arguments are its options in the order of `stated`: ``Window(8)`` is
    ``Window(window=8)``.

    Attributes
    ----------
    name : str
        What the command line calls it.
    kind : str
        What an error message calls it, "method" or "solver".
    prefix : str
        What the names of its options begin with on the command line and in error messages.
    registry : Registry or None
        Where objects of its kind are found by name.

    Raises
    ------
    InputError
        If there is no such option, or if a value is not allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: ClassVar[str] = ""
    kind: ClassVar[str] = "object"
    prefix: ClassVar[str] = ""
    registry: ClassVar[Any] = None

    def __init__(self, *values: Any, **named: Any) -> None:
        options = self.stated()
        if len(values) > len(options):
            raise InputError(
                f"{type(self).__name__} has {len(options)} options, and {len(values)} were given"
            )
        given = dict(zip(options, values, strict=False))
        for option in given.keys() & named.keys():
            raise InputError(f"`{option}` was given to {type(self).__name__} twice")
        for option in named:
            if option not in options:
                raise InputError(
                    f"`{self.prefix}{option}` is no option of {self.described()}, which has: "
                    f"{self.listed()}"
                )
        named = given | named
        for option, value in named.items():
            if isinstance(value, str) and not is_text(value):
                raise InputError(
                    f"`{self.prefix}{option}` is {value!r}, which no file can be called: give text "
                    "in UTF-8, without NUL"
                )
        try:
            super().__init__(**named)
        except ValidationError as error:
            raise InputError(sentence(error, self.prefix)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _is_of_its_type(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        refuse_conversion(annotation, value)
        if Path in kinds_of(annotation) and isinstance(value, str) and is_too_long(value):
            raise ValueError(f"a path with names of at most {LONGEST_NAME} bytes")
        return value

    @classmethod
    def stated(cls) -> tuple[str, ...]:
        """Names of the options: the class's own, those of its bases, and last what all share."""
        lineage: list[Any] = [*cls.__mro__[: cls.__mro__.index(Options)]]
        names = [name for base in lineage for name in vars(base).get("__annotations__", ())]
        common = lineage[-1].model_fields if lineage else {}
        own = [name for name in names if name in cls.model_fields and name not in common]
        return (*dict.fromkeys(own), *common)

    @classmethod
    def described(cls) -> str:
        """Return what error messages call an object of this class: kind and name."""
        return f"the {cls.kind} {cls.name}"

    @classmethod
    def listed(cls) -> str:
        """Return the names of the options for an error message."""
        return ", ".join(f"`{cls.prefix}{one}`" for one in cls.stated()) or "none"

    @property
    def changed(self) -> dict[str, Any]:
        """The options that have other values than their defaults."""
        fields = type(self).model_fields
        values = {name: getattr(self, name) for name in self.stated()}
        return {name: value for name, value in values.items() if value != fields[name].default}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.changed.items())
        return f"{type(self).__name__}({options})"

    def __str__(self) -> str:
        return repr(self)


T = TypeVar("T")
Kind = TypeVar("Kind", bound=Options)


def registered(base: type[T], names: Mapping[str, Any]) -> list[type[T]]:
    """Return the subclasses of a class among the names of a module, in the order of the names."""
    return [one for one in names.values() if base in getattr(one, "__mro__", ())[1:]]


class Registry(dict[str, type[Kind]], Generic[Kind]):
    """Classes by the names that settings have for them; finds those of a third party too.

    Parameters
    ----------
    base : type
        What all of them are.
    names : mapping
        ``globals()`` of the module that has imported the package's own; a class without a name of
        its own is a base of others.
    """

    def __init__(self, base: type[Kind], names: Mapping[str, Any]) -> None:
        own = [kind for kind in registered(base, names) if "name" in vars(kind)]
        super().__init__({kind.name: kind for kind in sorted(own, key=lambda kind: kind.name)})
        self.base, base.registry = base, self
        self._others: dict[str, type[Kind]] = {}

    def find(self, name: str) -> type[Kind]:
        """Return the class with a name, or a third party's, ``module:Class`` or ``file.py:Class``.

        Raises
        ------
        InputError
            If there is none.
        """
        if name in self:
            return self[name]
        what = self.base.kind
        if ":" not in name:
            raise InputError(
                f"unknown {what} {name!r}: it is one of {', '.join(self)}, or module:Class or "
                "path/to/file.py:Class"
            )
        if name not in self._others:
            found = third_party.load(name)
            if not (isinstance(found, type) and issubclass(found, self.base)):
                raise InputError(
                    f"the {what} {name} is no subclass of {self.base.__module__}."
                    f"{self.base.__name__}: write one"
                )
            self._others[name] = found
        return self._others[name]

    def name_of(self, kind: type[Kind]) -> str:
        """Return the name with which `find` finds a class."""
        for name, one in {**self, **self._others}.items():
            if one is kind:
                return name
        return f"{kind.__module__}:{kind.__qualname__}"

    def kind_of(self, value: Any) -> type[Kind]:
        """Return the class of an object, or the one that a name, or a mapping with one, stands for.

        Raises
        ------
        InputError
            If there is no class with that name, or if it is none of these.
        """
        if isinstance(value, self.base):
            return type(value)
        name = value.get("name") if isinstance(value, Mapping) else value
        if not isinstance(name, str):
            raise InputError(
                f"`{self.base.kind}` is {value!r}, but must be a name, or options with a name such "
                f"as {{name: {next(iter(self))}}}"
            )
        return self.find(name)

    def make(self, value: Any) -> Any:
        """Turn a name, or a mapping of name and options, into an object; leave objects alone.

        Raises
        ------
        InputError
            See `kind_of`; or if an option is wrong.
        """
        if value is None or isinstance(value, self.base):
            return value
        options = value if isinstance(value, Mapping) else {}
        return self.kind_of(value)(**{key: one for key, one in options.items() if key != "name"})


def kinds_of(annotation: Any) -> list[Any]:
    """Return the members of a union but None, or the one type that it is; without their limits."""
    union = get_origin(annotation) in (Union, types.UnionType)
    kinds = get_args(annotation) if union else [annotation]
    bare = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    return [kind for kind in bare if kind is not type(None)]


def is_number(kind: Any) -> bool:
    """Return whether a type is int or float."""
    return kind in (int, float)


def number(text: str) -> Any:
    """Return the number that a text is, or the text if it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def is_text(value: str) -> bool:
    """Return whether a text can be written as UTF-8 and be part of a file's name."""
    return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def is_too_long(path: str) -> bool:
    """Return whether no system has room for a name in a path."""
    return any(len(part.encode()) > LONGEST_NAME for part in path.split("/"))


def refuse_conversion(annotation: Any, value: Any) -> None:
    """Refuse a value that pydantic would turn into another one.

    These are booleans and text where numbers are wanted, fractions where whole numbers are, and
    numbers where booleans are. What text a flag has is a number before it comes here.

    Raises
    ------
    ValueError
        If the value is one of these; says what it must be.
    """
    kinds = kinds_of(annotation)
    numbers = [kind for kind in kinds if is_number(kind)]
    if isinstance(value, list | tuple):
        for inner in (get_args(kind)[0] for kind in kinds if get_origin(kind) is tuple):
            for one in value:
                refuse_conversion(inner, one)
    elif kinds == [bool]:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError("a valid boolean")
    elif numbers and (
        isinstance(value, bool)
        or (isinstance(value, float) and numbers == [int])
        or (isinstance(value, str) and number(value) is not value)
    ):
        raise ValueError("a valid integer" if numbers == [int] else "a valid number")


def plain(value: Any) -> Any:
    """Return a value as YAML and JSON have it; of an object its name, if any, and its options."""
    if isinstance(value, Options):
        registry = value.registry
        named = {} if registry is None else {"name": registry.name_of(type(value))}
        return named | {name: plain(getattr(value, name)) for name in value.stated()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, PurePath) else value


def sentence(error: ValidationError, prefix: str = "") -> str:
    """Say what is wrong with one option, whichever of its types its value failed."""
    errors = error.errors()
    first = errors[0]
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ")
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return f"`{prefix}{name}` is missing"
    wanted = [expected(one["msg"]) for one in errors if one["loc"][0] == name]
    told = " or ".join(dict.fromkeys(wanted))
    return f"`{prefix}{name}` is {first['input']!r}, but must be {told}"


def expected(message: str) -> str:
    """Return what a validation message says that a value must be."""
    message = message.removeprefix("Value error, ").replace("Input should be ", "")
    return message.split(", unable")[0].split(", got")[0]
