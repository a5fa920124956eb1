"""Command lines and YAML, right and wrong, drawn from the settings themselves."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
from hypothesis import strategies as st

from pint_diffusion.commands.cli import COMMANDS
from pint_diffusion.options import kinds_of
from pint_diffusion.settings.check import Check
from pint_diffusion.settings.compare import Compare
from pint_diffusion.settings.export import Export
from pint_diffusion.settings.flags import Flag, flags_of
from pint_diffusion.settings.grid import GridSettings
from pint_diffusion.settings.inspect import Inspect
from pint_diffusion.settings.reading import CommandSettings
from pint_diffusion.settings.resume import Resume
from pint_diffusion.settings.run import Settings

KINDS: dict[str, type[CommandSettings]] = {
    "sample": Settings,
    "resume": Resume,
    "compare": Compare,
    "grid": GridSettings,
    "check": Check,
    "inspect": Inspect,
    "export": Export,
}
assert KINDS.keys() == COMMANDS.keys()

NETWORK = """
import numpy as np
class Network:
    prediction, data_range, shape = "epsilon", (-1.0, 1.0), SHAPE
    alphas_cumprod = np.linspace(0.999, 0.01, 50)
    def __call__(self, x, t, alpha_bar):
        return CALL
def make(device, dtype):
    return Network()
"""
SOLVER = """
from typing import ClassVar
from pint_diffusion.solvers import DDIM
class Mine(DDIM):
    name: ClassVar[str] = "mine"
"""
GRIDS = {
    "good.yaml": "t: [900, 500, 200, 20]\n",
    "sliced.yaml": "t: [900, 500, 200, 20]\nbounds: [0, 1, 3]\n",
    "twice.yaml": "t: [900, 20]\nt: [800, 20]\n",
    "rising.yaml": "t: [20, 900]\n",
    "word.yaml": "t: [yes, 20]\n",
    "bomb.yaml": "a: &a [1, 1]\nb: &b [*a, *a]\nt: [*b, *b]\n",
    "deep.yaml": "t: " + "[" * 3000,
    "empty.yaml": "",
    "bytes.yaml": "t: [900, \x07]\n",
    "nan.yaml": "sigma: [.nan, 1]\n",
    "list.yaml": "- 1\n- 2\n",
}
MODELS = ("gmm:inputs/m.npz", "inputs/net.py:make")
WRONG_MODELS = (
    *(
        "inputs/huge.py:make",
        "inputs/nan.py:make",
        "inputs/shape.py:make",
        "inputs/nothing.py:make",
    ),
    *("gmm:inputs/good.yaml", "gmm:inputs/pipe", "gmm:", "inputs/folder", "inputs/pipe.py:make"),
    *(
        "inputs/nothing.py:make",
        "inputs/net.py:no",
        "no_module:make",
        ":",
        "a:b:c",
        "object:Network",
        "inputs/checkpoint",
    ),
)
SPECIAL = (
    *("inputs/folder", "inputs/pipe", "inputs/socket", "/dev/zero", "/dev/null", "inputs/none"),
    *("inputs/m.npz", "inputs/good.yaml/below", "inputs/nowhere", "inputs/large.yaml", "x" * 300),
    *("", ".", "\0", "a\nb", "\x1b[31m", "\udce9", "é" * 200, "~", "inputs/loop"),
)
KEPT = ("inputs/m.npz", "inputs/large.yaml")
"""Files that no input may name as one to be written."""

TEXT = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1",
        "1.5",
        "-0.0",
        "1e3",
        "1e-400",
        "1e400",
        "nan",
        "inf",
        "-inf",
        "yes",
    ),
    *("true", "True", "off", "auto", "none", "null", "007", "0x10", "1_000", "1,2", ",", "1,,2"),
    *(
        "9" * 30,
        "9" * 5000,
        "-" + "9" * 30,
        "abc",
        "é",
        "\u0662",
        "\0",
        "a\nb",
        "--",
        "-",
        "'",
        '"',
    ),
    *("`x`", "{}", "[]", "%s", "{0}", "$HOME", "../..", "\ud800", "x" * 3000, "\x1b[2J", "=", "*"),
)
HUGE = ("1000000000000", str(2**63), str(2**64))
"""Numbers that are refused as such, or for the memory that they would take."""

SIZES = {
    "steps": ("3", "5", "8"),
    "samples": ("1", "2"),
    "slices": ("1", "2", "3"),
    "teacher_steps": ("8", "12", "1000000"),
    "devices": ("1", "2,3"),
    "methods": ("sequential", "srds", "chords", "sequential,window"),
    "bounds": ("0,2,5", "0,3", "0,8"),
    "starts": ("0,1", "0,2,3"),
    "threads": ("1",),
    "labels": ("0", "1,2"),
    "transport": ("auto",),
    "watchdog": ("5", "off"),
    "batching": ("auto", "off", "2"),
    "sigma_min": ("0.01", "0.5"),
    "sigma_max": ("5", "80"),
    "grid": ("inputs/good.yaml", "inputs/sliced.yaml"),
    "warm_start": ("inputs/run",),
    "model": MODELS,
    "coarse_model": MODELS,
    "solver": ("ddim", "euler", "ddpm", "dpmpp_2m", "heun", "inputs/mine.py:Mine"),
    "coarse_solver": ("ddim", "euler"),
    "checkpoint_every": ("0", "0.1"),
}
"""Right values that runs are short with."""


@dataclass
class Line:
    """A command line, the text of its YAML file, and the one path where it may write.

    Attributes
    ----------
    arguments : list of str
        As given to the program, in a folder that holds `Inputs`.
    config : str or None
        Text of ``config.yaml``.
    out : str
        Path below which it may write.
    """

    arguments: list[str]
    config: str | None = None
    out: str = "out"
    tags: list[str] = field(default_factory=list)


def make_inputs(folder: Path) -> None:
    """Write the files that command lines name, and a run, into ``folder/inputs``."""
    inputs = folder / "inputs"
    inputs.mkdir()
    means = np.array([[0.5, -0.5, 0.1], [-0.2, 0.3, 0.4]])
    np.savez(inputs / "m.npz", means=means, variances=[0.1, 0.2], weights=[0.5, 0.5])
    for name, shape, call in (
        ("net.py", "(3,)", "0.5 * x"),
        ("huge.py", "(10**6, 10**6)", "x"),
        ("nan.py", "(3,)", "x * float('nan')"),
        ("shape.py", "(3,)", "x[:, :1]"),
    ):
        text = NETWORK.replace("SHAPE", shape).replace("CALL", call)
        (inputs / name).write_text(text)
    (inputs / "nothing.py").write_text("def make(device, dtype):\n    return None\n")
    (inputs / "mine.py").write_text(SOLVER)
    for name, text in GRIDS.items():
        (inputs / name).write_text(text)
    (inputs / "large.yaml").write_text("# " + "x" * 16_000_000)
    (inputs / "victim").write_text("to be written over, if one says so")
    (inputs / "folder").mkdir()
    (inputs / "folder" / "thing").write_text("of somebody else")
    (inputs / "checkpoint").mkdir()
    (inputs / "checkpoint" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    for name in ("pipe", "pipe.py"):
        os.mkfifo(inputs / name)
    here = os.getcwd()
    os.chdir(inputs)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
    os.chdir(here)
    (inputs / "nowhere").symlink_to("no/where")
    (inputs / "loop").symlink_to("loop")


def right(flag: Flag) -> st.SearchStrategy[str]:
    """Values that a flag takes."""
    if flag.name in SIZES:
        return st.sampled_from(SIZES[flag.name])
    annotation, kinds = flag.field.annotation, kinds_of(flag.field.annotation)
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    limits = flag.field.metadata
    low = max([getattr(one, "gt", None) or getattr(one, "ge", None) or 0 for one in limits] + [0])
    high = min([getattr(one, "lt", None) or getattr(one, "le", None) or 9 for one in limits] + [9])
    if int in kinds:
        return st.sampled_from([str(int(low) + n) for n in (1, 2)])
    if float in kinds:
        return st.sampled_from([str(low + share * (high - low)) for share in (0.1, 0.5)])
    literals = [str(one) for kind in kinds for one in get_args(kind)]
    return st.sampled_from(literals) if literals else st.sampled_from(["a", "b"])


def any_value(flag: Flag) -> st.SearchStrategy[str]:
    """Values that a flag may be given: right ones, limits, other types, wrong files, rubbish."""
    choices = [right(flag), st.sampled_from(TEXT)]
    kinds = kinds_of(flag.field.annotation)
    limits = [
        str(limit + move)
        for data in flag.field.metadata
        for name in ("gt", "ge", "lt", "le")
        if (limit := getattr(data, name, None)) is not None and flag.name not in ("steps",)
        for move in (-1, 0, 1)
    ]
    if limits and flag.name not in SIZES:
        choices.append(st.sampled_from(limits))
    if int in kinds:
        choices.append(st.sampled_from([*HUGE, "1000001"] if flag.name == "steps" else HUGE))
    if float in kinds:
        choices.append(st.floats().map(repr))
    if flag.name in ("model", "coarse_model"):
        choices.append(st.sampled_from(WRONG_MODELS))
    if any(isinstance(kind, type) and kind.__name__.endswith("Path") for kind in kinds):
        choices.append(st.sampled_from(SPECIAL + tuple(f"inputs/{name}" for name in GRIDS)))
    choices.append(st.text(max_size=8))
    return st.one_of(choices)


@cache
def known(command: str, method: str, solver: str) -> list[tuple[Flag, Any, Any]]:
    """Flags of a command, with right values and with any."""
    kind = KINDS[command]
    chosen = {name: kind.choices[name][value] for name, value in
              (("method", method), ("solver", solver)) if name in kind.choices}  # fmt: skip
    skipped = ("out", "config", "run", "file", "trace", "method", "solver")
    return [
        (flag, right(flag), any_value(flag))
        for flag in flags_of(kind, chosen)
        if flag.name not in skipped
    ]


def written(flag: Flag, value: str, draw: Any) -> list[str]:
    """A flag and its value as words."""
    if flag.is_switch:
        return [draw(st.sampled_from([flag.dashed, f"--no-{flag.dashed[2:]}"]))]
    return draw(st.sampled_from([[flag.dashed, value], [f"{flag.dashed}={value}"]]))


def mostly(*right: str, wrong: Sequence[str]) -> st.SearchStrategy[str]:
    """One of a few right texts, or now and then a wrong one."""
    return st.sampled_from([*right * (-(-4 * len(wrong) // len(right))), *wrong])


def rarely(draw: Any) -> bool:
    """Return True now and then."""
    return bool(draw(st.sampled_from([False] * 19 + [True])))


PLACES = ("inputs/victim", *(one for one in SPECIAL if one not in KEPT))
OUTS = mostly("out/run", "out/a/b", "out/\u00fc \u20ac", wrong=("inputs/folder", *PLACES))
RUNS = mostly("out/old", wrong=("out/old/run.h5", *SPECIAL))
GRID_FILES = mostly("out/g.yaml", wrong=PLACES)
FOR_OTHERS = ("labels", "guidance", "guidance_rescale", "null_class", "shift", "device")
"""Flags that the networks here, or this machine, have no use for."""

JUNK = st.sampled_from(
    ["--no-such-flag", "--steps", "-s", "--", "x", "--=", "--no-", "--help-al", "--window=1", "-"]
)


@st.composite
def lines(draw: Any) -> Line:
    """Draw a command line, with a YAML file or without, mostly right or with a few wrong parts."""
    command = draw(st.sampled_from(["sample"] * 12 + ["resume", "grid"] * 3 + list(KINDS)))
    method = draw(st.sampled_from(sorted(Settings.choices["method"])))
    solver = draw(st.sampled_from(["ddim", *sorted(Settings.choices["solver"])]))
    words: list[list[str]] = []
    if command == "resume" and not rarely(draw):  # the run has these
        method, solver = "parareal", "ddim"
    elif "solver" in KINDS[command].choices:
        words = [["--method", method]] * ("method" in KINDS[command].choices)
        words.append(["--solver", solver])
    flags = known(command, method, solver)
    if command == "resume":
        flags = [one for one in flags if one[0].resume == "free" or rarely(draw)]
    wrong = draw(st.sampled_from([0, 0, 1, 1, 2]))
    for i in range(draw(st.sampled_from([0, 1, 2, 3])) + wrong if flags else 0):
        flag, rights, anything = draw(st.sampled_from(flags))
        if i < wrong or flag.name not in FOR_OTHERS:
            words.append(written(flag, draw(anything if i < wrong else rights), draw))
    if rarely(draw):
        words.append([draw(JUNK)])
    words = draw(st.permutations(words))
    given = [word for pair in words for word in pair]
    line = Line([command], tags=[command])
    base: list[str] = []
    if command in ("sample", "compare", "grid"):
        base = ["--model", MODELS[0], "--samples", "2"]
        base += ["--threads", "1"] * (command != "grid")
        if "--grid" not in " ".join(given) and not rarely(draw):
            base += ["--steps", "6"]
    if command == "compare":
        base += ["--methods", "sequential", "--devices", "2"]
    if command in ("sample", "compare") and draw(st.sampled_from([False, False, True])):
        line.config = draw(yaml_texts(command, method, solver))
        base += ["--config", "config.yaml"]
    elif command in ("sample", "compare") and rarely(draw):
        base += ["--config", draw(st.sampled_from(SPECIAL))]
    place(draw, command, line, base + given)
    return line


def place(draw: Any, command: str, line: Line, given: Sequence[str]) -> None:
    """Add what is given by place, and where it may write."""
    line.out = draw(OUTS)
    run = draw(RUNS)
    if command == "resume":
        line.arguments += [run, *given]
        line.out = run
    elif command in ("inspect", "export"):
        line.arguments += [run, *given]
        if command == "export":
            flag = draw(st.sampled_from(["--out", "--trace"]))
            line.arguments += [flag, line.out]
    elif command == "grid":
        line.out = draw(GRID_FILES)
        line.arguments += [*given, line.out]
    else:
        line.arguments += [*given, "--out", line.out]


SCALARS = (
    *("yes", "true", "off", "~", "", "010", "1:30", "0x1F", "1_000", "1e-3", ".5", "64.0", "'6'"),
    *("2024-01-01", "[1, 2]", "{a: 1}", "&x 3", "*x", "!!int 3", "!!python/object:os.system x"),
    *('"\\0"', '"\\uD800"', "|\n  text", "'", "[", "- 1", "9" * 40, ".nan", ".inf", "\t", "@"),
    *("`", "[" * 40, "{" * 30, "<<", "? a", "é", "a: b", "#", "%", '"\\UFFFFFFFF"', "!!bool x"),
)
"""Values in YAML that are another thing than they look like."""


@st.composite
def yaml_texts(draw: Any, command: str, method: str, solver: str) -> str:
    """Draw settings as YAML, some of them wrong, some twice."""
    kind = KINDS[command]
    rows: list[tuple[tuple[str, ...], str]] = []
    for flag, rights, anything in draw(
        st.lists(st.sampled_from(known(command, method, solver)), max_size=4)
    ):
        if flag.name in ("transport", "model", *FOR_OTHERS) and not rarely(draw):
            continue
        how = draw(st.sampled_from(["right"] * 8 + ["any", "scalar"]))
        value = draw({"right": rights, "any": anything, "scalar": st.sampled_from(SCALARS)}[how])
        if flag.is_switch:
            value = draw(st.sampled_from(["true", "false", "yes", "1"]))
        elif "," in value and how == "right":
            value = f"[{value}]"
        rows.append((flag.path, value))
    if rarely(draw):
        rows.append((("no_such_key",), "1"))
    named = {"method": method, "solver": solver}
    text = ""
    for name in dict.fromkeys(path[0] for path, _ in rows):
        inner = [(path[1:], value) for path, value in rows if path[0] == name]
        if inner[0][0] == ():
            text += "".join(f"{name}: {value}\n" for _, value in inner)
            continue
        text += f"{name}:\n"
        if name in kind.choices and not rarely(draw):
            text += f"  name: {named[name]}\n"
        text += "".join(f"  {path[0]}: {value}\n" for path, value in inner)
    return text or "{}\n"
