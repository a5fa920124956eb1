"""What may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pint_diffusion
from pint_diffusion.methods import METHODS
from pint_diffusion.solvers import SOLVERS

PACKAGE = Path(pint_diffusion.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
HEAVY = {"torch", "mpi4py", "h5py", "diffusers", "numpy", "scipy", "pydantic", "yaml", "matplotlib"}


def statements(tree: ast.Module, inside_functions: bool) -> Iterator[ast.AST]:
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        if inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += ast.iter_child_nodes(node)


def imported(path: Path, inside_functions: bool) -> set[str]:
    """Full names of what a file imports, also for type checkers alone."""
    names: set[str] = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> modules that are loaded when it is imported, and those its types are from.

    A package is loaded with what lies in it, unless the module lies in it too.
    """
    arrows: dict[str, set[str]] = {}
    for module, path in modules.items():
        arrows[module] = set()
        for name in imported(path, inside_functions=False):
            parts = name.split(".")
            loaded = {".".join(parts[:end]) for end in range(2, len(parts) + 1)}
            around = {one for one in loaded if f"{module}.".startswith(f"{one}.")} - {name}
            arrows[module] |= (loaded & modules.keys()) - around - {module}
    return arrows


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves in the end."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        todo = list(arrows[start])
        while todo:
            module = todo.pop()
            if module not in found:
                found.add(module)
                todo += arrows[module]
        return found

    return [module for module in arrows if module in reached(module)]


def test_no_module_imports_itself_in_the_end():
    assert circles(graph(MODULES)) == []


def test_a_circle_is_found_also_one_through_a_package_or_a_type(tmp_path):
    texts = {
        "pint_diffusion.a": "from pint_diffusion.room import b",
        "pint_diffusion.room": "",
        "pint_diffusion.room.b": "if TYPE_CHECKING:\n    import pint_diffusion.a",
        "pint_diffusion.c": "def f():\n    from pint_diffusion.c import f",
    }
    modules = {name: tmp_path / f"{name}.py" for name in texts}
    for name, text in texts.items():
        modules[name].write_text(text)
    assert circles(graph(modules)) == ["pint_diffusion.a", "pint_diffusion.room.b"]


@pytest.mark.parametrize("module", MODULES)
def test_mpi4py_is_imported_in_the_runtime_alone(module):
    tops = {name.partition(".")[0] for name in imported(MODULES[module], inside_functions=True)}
    assert "mpi4py" not in tops or module.startswith("pint_diffusion.runtime.")


def test_importing_the_package_loads_no_library():
    """``import pint_diffusion`` is instant anywhere."""
    probe = f"import sys, pint_diffusion; print(*({HEAVY!r} & set(sys.modules)))"
    command = [sys.executable, "-c", probe]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == ""


def compared_names(text: str) -> list[str]:
    """Comparisons in a program with the name of a method or a solver."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Compare)
        and any(
            isinstance(part, ast.Constant) and part.value in (METHODS.keys() | SOLVERS.keys())
            for side in (node.left, *node.comparators)
            for part in ast.walk(side)
        )
    ]


def test_no_module_asks_which_method_or_solver_it_has():
    """What a method or a solver is like is one of its attributes, so a new one needs no change."""
    outside = {
        module: compared_names(path.read_text(encoding="utf-8"))
        for module, path in MODULES.items()
        if not module.startswith(("pint_diffusion.methods", "pint_diffusion.solvers"))
    }
    assert {module: found for module, found in outside.items() if found} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('if method.name == "window": pass', 1),
        ('if name in ("parareal", "other"): pass', 1),
        ('x = [one for one in all if "heun" != one.name]', 1),
        ('x = {"window": 1}; y = name == "no method"', 0),
    ],
)
def test_a_question_which_method_it_is_is_found(text, found):
    assert len(compared_names(text)) == found
