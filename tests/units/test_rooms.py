"""What may be written where: the library logs and names options as Python does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import pint_diffusion
from pint_diffusion.methods import METHODS
from pint_diffusion.settings import flags
from pint_diffusion.settings.compare import Compare
from pint_diffusion.settings.grid import GridSettings
from pint_diffusion.settings.run import Settings
from pint_diffusion.solvers import SOLVERS

PACKAGE = Path(pint_diffusion.__file__).parent
LIBRARY = ("build", "grid", "methods", "models", "numerics", "runtime", "solvers", "store")
PRINTS = ("commands", "training", "report/progress.py")


def files(*rooms):
    return [path for room in rooms for path in sorted((PACKAGE / room).rglob("*.py"))]


def known_flags():
    names = set()
    for kind in (Settings, Compare, GridSettings):
        names |= {flag.name for flag in flags.flags_of(kind, kind.chosen({}, {}))}
    for registry in (METHODS, SOLVERS):
        names |= {option for kind in registry.values() for option in kind.stated()}
    return {"--" + name.replace("_", "-") for name in names}


def strings(path):
    """(line, text) of every string of a file that is no docstring."""
    tree = ast.parse(path.read_text())
    docs = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for statement in node.body
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


@pytest.mark.parametrize("room", LIBRARY)
def test_the_library_names_options_and_no_flags(room):
    known, seen = known_flags(), 0
    for path in files(room):
        for line, text in strings(path):
            seen += 1
            found = known & set(re.findall(r"--[a-z][a-z-]*[a-z]", text))
            assert not found, f"{path}:{line} says {found}"
    assert seen


def test_only_commands_and_the_display_of_progress_print():
    allowed = {path for part in PRINTS for path in (*files(part), PACKAGE / part)}
    seen = 0
    for path in files("."):
        calls = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ]
        seen += len(calls)
        assert path in allowed or not calls, f"{path} prints in lines {calls}"
    assert seen
