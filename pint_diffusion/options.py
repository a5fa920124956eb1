"""Options: what a method or a solver is told, validated where it is stated."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pint_diffusion.errors import InputError

FREE: dict[str, Any] = {"resume": "free"}
"""``json_schema_extra`` of an option that `resume` may change: it says when or where something is
computed, or how long, but not what.
"""


class Options(BaseModel):
    """A frozen object with validated options; the base of methods, solvers and the like.

    Positional arguments are its options in the order of `stated`: ``Window(8)`` is
    ``Window(window=8)``.

    Attributes
    ----------
    name : str
        What the command line calls it.
    kind : str
        What an error message calls it, "method" or "solver".

    Raises
    ------
    InputError
        If there is no such option, or if a value is not allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: ClassVar[str] = ""
    kind: ClassVar[str] = "object"

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
                has = ", ".join(f"`{one}`" for one in options) or "none"
                raise InputError(
                    f"`{option}` is no option of the {self.kind} {self.name}, which has: {has}"
                )
        try:
            super().__init__(**given, **named)
        except ValidationError as error:
            raise InputError(sentence(error)) from None

    @classmethod
    def stated(cls) -> tuple[str, ...]:
        """Names of the options: the class's own, those of its bases, and last what all share."""
        lineage: list[Any] = [*cls.__mro__[: cls.__mro__.index(Options)]]
        names = [name for base in lineage for name in vars(base).get("__annotations__", ())]
        common = lineage[-1].model_fields if lineage else {}
        own = [name for name in names if name in cls.model_fields and name not in common]
        return (*dict.fromkeys(own), *common)

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


def sentence(error: ValidationError) -> str:
    """Say what is wrong with one option, whichever of its types its value failed."""
    errors = error.errors()
    first = errors[0]
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ")
    name = str(first["loc"][0])
    wanted = [expected(one["msg"]) for one in errors if one["loc"][0] == name]
    return f"`{name}` is {first['input']!r}, but must be {' or '.join(dict.fromkeys(wanted))}"


def expected(message: str) -> str:
    """Return what a validation message says that a value must be."""
    message = message.removeprefix("Value error, ").replace("Input should be ", "")
    return message.split(", unable")[0].split(", got")[0]
