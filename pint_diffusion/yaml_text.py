"""YAML as settings and grid files use it: what is written is what is meant, or is refused.

YAML 1.1 reads ``yes`` as true, ``010`` as 8, ``1:30`` as 90 and ``1e-3`` as text, takes the last of
two equal keys, and lets a few lines of aliases stand for gigabytes. Here numbers are decimal,
``true`` and ``false`` are the only booleans, and keys that are there twice, aliases and tags are
refused, each with its line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

DEPTH = 20
"""Most levels of nesting."""

_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(
    r"[-+]?([0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
    r"|\.(inf|Inf|INF))\Z|\.(nan|NaN|NAN)\Z"
)
_PLAIN = (
    ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), "tTfF"),
    ("int", re.compile(r"[-+]?(0|[1-9][0-9]{0,29})\Z"), "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", re.compile(r"(~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
)
"""What plain scalars are, if they are no text: tag, form, first characters."""


@dataclass(frozen=True)
class Yaml:
    """What a text in YAML holds.

    Attributes
    ----------
    values : object
        Mappings, lists, texts, numbers, booleans and None.
    lines : mapping of tuple of str to int
        Keys of nested mappings, outermost first -> the line where the last of them stands, from 1.
    """

    values: Any
    lines: Mapping[tuple[str, ...], int]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _wrong(f"the alias *{event.anchor} is not taken: write out what it means", event)
        if event.tag is not None:
            raise _wrong(f"the tag {event.tag} is not taken: leave it out", event)
        if self.depth == DEPTH:
            raise _wrong(f"it is nested in more than {DEPTH} levels", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                raise _wrong("a key must be a name", key)
            if key.value in seen:
                first = seen[key.value]
                raise _wrong(f"{key.value!r} is there twice, first in line {first}", key)
            seen[key.value] = key.start_mark.line + 1
        return node


class _Dumper(yaml.SafeDumper):
    pass


for name, form, first in _PLAIN:
    _Loader.add_implicit_resolver(_TAG + name, form, list(first))
    _Dumper.add_implicit_resolver(_TAG + name, form, list(first))  # beside its own: it quotes more


def parse_yaml(text: str) -> Yaml:
    """Read a text in YAML.

    Raises
    ------
    ValueError
        If it is no YAML, or holds what is not taken. Says why, and in which line.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            values = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {line}: {error.reason}") from None
    except OverflowError:  # "\\UFFFFFFFF"
        raise ValueError("it has an escape that is no character") from None
    return Yaml(values, dict(_lines(node, ())))


def dump_yaml(values: Mapping[str, Any], **style: Any) -> str:
    """Write a mapping as YAML that `parse_yaml`, and any reader of YAML 1.1, reads back alike."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, **style)
    return text


def _lines(node: Any, path: tuple[str, ...]) -> Any:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from _lines(value, (*path, key.value))


def _wrong(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
