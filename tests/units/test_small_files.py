"""Small files are regular ones, and what stands in YAML is what is meant."""

from __future__ import annotations

import math
import os
import socket
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pint_diffusion.small_file import LIMIT, read_small_file
from pint_diffusion.yaml_text import dump_yaml, parse_yaml

TEXTS = st.one_of(
    st.text(string.printable, max_size=12),
    st.text(max_size=6).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)),
    st.sampled_from(["yes", "off", "on", "010", "1e-3", "1.5e5", ".5", "1:30", "~", "null", "0x1"]),
    st.sampled_from(["true", "1_000", "2024-01-01", "", "=", "<<", "- a", "a: b", "#", "\u0085"]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def same(one, other):
    """Equal, of the same types, NaN too."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and one == other


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_is_written_is_read_back_here_and_by_readers_of_yaml_1_1(values):
    text = dump_yaml(values)
    assert same(parse_yaml(text).values, values)
    assert same(yaml.safe_load(text), values)


@given(st.text(max_size=40) | st.text("{}[]:,-&*!|>'\"\n a1.?%@`#\\x", max_size=30))
def test_any_text_is_read_or_refused_in_one_line(text):
    told = "read"
    try:
        parse_yaml(text)
    except ValueError as error:
        told = str(error)
    assert told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(one, one) for one in ("yes", "no", "on", "off", "010", "0x1F", "1:30", "1_000", "+")],
        *[
            ("2024-01-01", "2024-01-01"),
            ("1e", "1e"),
            ("=", "="),
            ("<<", "<<"),
            ("9" * 31, "9" * 31),
        ],
        *[("true", True), ("False", False), ("~", None), ("", None), ("null", None), ("'6'", "6")],
        *[("6", 6), ("-0", 0), ("+6", 6), ("1e-3", 1e-3), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0)],
        *[("6.0", 6.0), (".inf", math.inf), ("-.inf", -math.inf), ("1.5e+3", 1500.0)],
    ],
)
def test_a_plain_value_is_what_it_looks_like(text, value):
    found = parse_yaml(f"a: {text}").values["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' is there twice, first in line 1"),
        ("a: 1\n'a': 3\n", "line 2: 'a' is there twice, first in line 1"),
        ("m:\n  b: {c: 1,\n    c: 1}\n", "line 3: 'c' is there twice, first in line 2"),
        ("l:\n- {a: 1, a: 2}\n", "line 2: 'a' is there twice"),
        ("a: &x 1\n\nb: *x\n", "line 3: the alias \\*x is not taken"),
        ("a: 1\nb: !!float 3\n", "line 2: the tag"),
        ("a: 1\nb: ! 3\n", "line 2: the tag"),
        ("1: a\n", "line 1: a key must be a name"),
        ("? [a]\n: 1\n", "line 1: a key must be a name"),
        ("a:\n" + "[" * 50, "line 2: it is nested in more than 20 levels"),
        ("a: 1\n\x07b: 2\n", "line 2: special characters are not allowed"),
        ("a: [1\nb: 2\n", "line 2: "),
        ('a: "\\UFFFFFFFF"\n', "no character"),
    ],
)
def test_what_is_not_taken_is_refused_with_its_line(text, told):
    with pytest.raises(ValueError, match=told):
        parse_yaml(text)


def test_lines_are_those_of_the_keys():
    text = "a: 1\n# a comment\nm: {x: 1,\n  y: [2,\n 3]}\nn:\n  o:\n    p: 1\n"
    lines = {("a",): 1, ("m",): 3, ("m", "x"): 3, ("m", "y"): 4}
    assert parse_yaml(text).lines == lines | {("n",): 6, ("n", "o"): 7, ("n", "o", "p"): 8}


def test_aliases_do_not_unfold():
    """A kilobyte that would stand for 10^9 numbers."""
    text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for n in range(1, 9):
        text += f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n"
    with pytest.raises(ValueError, match="line 2: the alias"):
        parse_yaml(text)


@pytest.fixture
def special(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "to_pipe").symlink_to("pipe")
    (tmp_path / "large").write_bytes(b"x" * (LIMIT + 1))
    (tmp_path / "bytes").write_bytes(b"abc\xff")
    (tmp_path / "good").write_bytes(b"x" * LIMIT)
    return tmp_path


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("folder", "it is a folder"),
        ("pipe", "it is a named pipe"),
        ("to_pipe", "it is a named pipe"),
        ("socket", "it is a socket"),
        ("/dev/zero", "it is a device"),
        ("nowhere", "No such file"),
        ("none", "No such file"),
        ("good/below", "Not a directory"),
        ("large", "more than 16 MB"),
        ("bytes", "no text in UTF-8, from byte 3 on"),
        ("a\0b", "null"),
        ("x" * 300, "too long"),
    ],
)
def test_only_regular_files_up_to_a_size_are_read(special, name, told):
    with pytest.raises(ValueError, match=told):
        read_small_file(name)


def test_a_file_of_the_greatest_size_is_read(special):
    assert len(read_small_file("good")) == LIMIT
