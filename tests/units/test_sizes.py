"""No module, function or repetition grows beyond what one can read: see docs/design.md."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import pint_diffusion

ROOT = Path(pint_diffusion.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION, REPEATED = 350, 80, 6
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_and_its_functions_can_be_read(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, FUNCTIONS):
            text = node.body[0] if ast.get_docstring(node) else None  # the door has 20 parameters
            told = text.end_lineno - text.lineno + 1 if text else 0
            assert node.end_lineno - node.lineno + 1 - told <= LONGEST_FUNCTION, node.name


def body_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of code that say what is done: no imports, signatures, fields, docstrings, brackets."""
    text = path.read_text(encoding="utf-8")
    kept = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, FUNCTIONS):
            kept.update(range(node.body[0].lineno, node.end_lineno + 1))
    for node in ast.walk(ast.parse(text)):
        constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if constant or isinstance(node, (ast.Import, ast.ImportFrom)):
            kept.difference_update(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, FUNCTIONS):
            kept.difference_update(range(node.lineno, node.body[0].lineno))
    lines = enumerate(map(str.strip, text.splitlines()), 1)
    return [(i, line) for i, line in lines if i in kept and line.strip("()[]{},:")]


def test_no_six_lines_stand_in_two_places():
    places = defaultdict(list)
    for path in MODULES:
        lines = body_lines(path)
        for at in range(len(lines) - REPEATED + 1):
            window = lines[at : at + REPEATED]
            places[tuple(line for _, line in window)].append(f"{name(path)}:{window[0][0]}")
    twice = {" | ".join(where): lines for lines, where in places.items() if len(where) > 1}
    assert not twice
