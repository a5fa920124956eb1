"""The recipes of CONTRIBUTING.md, each carried out in a copy of the package: a file and a line."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.launch import Ended, launch

import pint_diffusion

ROOT = Path(__file__).parents[2]
PACKAGE = Path(pint_diffusion.__file__).parent
POINTS = np.random.default_rng(3).uniform(-1, 1, (5, 1, 2, 2))
LINES = 30
"""Most lines of code of a recipe's file; those without code are not counted."""


@dataclass(frozen=True)
class Recipe:
    """What a section of the page shows.

    Attributes
    ----------
    file, text
        The new file.
    place, above, line
        The file that gets a line, the line above it, and the line.
    shown
        What is run at the end: a command, or a program.
    is_command
        Which of the two.
    """

    file: str
    text: str
    place: str
    above: str
    line: str
    shown: str
    is_command: bool


def recipes() -> dict[str, Recipe]:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    found = {}
    for section in page[page.index("## Five recipes") :].split("\n### ")[1:]:
        title, _, body = section.partition("\n")
        (_, new), (diff, change), (language, shown) = re.findall(
            r"```(\w+)\n(.*?)\n```", body, re.DOTALL
        )
        file, _, text = new.partition("\n")
        place, above, line = change.split("\n")
        assert (diff, above[0], line[0]) == ("diff", " ", "+"), title
        found[title] = Recipe(
            file.removeprefix("# "),
            text + "\n",
            place.removeprefix("# "),
            above[1:],
            line[1:],
            shown.removeprefix("$ "),
            language == "console",
        )
    return found


RECIPES = recipes()


class Copy:
    """A copy of the package in a folder, and what is run with it.

    Attributes
    ----------
    folder
        It holds the copy, mixture.npz and points.npy.
    """

    def __init__(self, folder: Path, mixture: Path) -> None:
        self.folder = folder
        shutil.copytree(
            PACKAGE, folder / "pint_diffusion", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copy(mixture, folder / "mixture.npz")
        np.save(folder / "points.npy", POINTS)

    def follow(self, recipe: Recipe, with_line: bool = True) -> None:
        """Write the file, and put the line where it belongs."""
        new, place = self.folder / recipe.file, self.folder / recipe.place
        assert not new.exists()
        new.write_text(recipe.text)
        lines = place.read_text().splitlines(keepends=True)
        assert lines.count(recipe.above + "\n") == 1, f"where is {recipe.above!r} in {place}?"
        at = lines.index(recipe.above + "\n") + 1
        place.write_text("".join([*lines[:at], *[recipe.line + "\n"] * with_line, *lines[at:]]))

    def show(self, recipe: Recipe, *more: object) -> Ended:
        """Run what the recipe shows at its end, with other flags too."""
        if not recipe.is_command:
            return self.run("-c", recipe.shown)
        ranks, words = 1, shlex.split(recipe.shown)
        if words[:2] == ["mpiexec", "-n"]:
            ranks, words = int(words[2]), words[3:]
        assert words[0] == "python"
        return self.run(*words[1:], *more, ranks=ranks)

    def sample(self, *flags: object) -> Ended:
        """Run the command."""
        return self.run("-m", "pint_diffusion", "sample", *flags)

    def run(self, *words: object, ranks: int = 1) -> Ended:
        """Run Python with the copy."""
        program = [str(word) for word in words]
        environment = {"PYTHONPATH": str(self.folder)}
        return launch(program=program, cwd=self.folder, environment=environment, ranks=ranks)

    def read(self, name: str) -> np.ndarray | float | str:
        """Return a dataset or an attribute of the run; `read_run` here does not know new names."""
        with h5py.File(self.folder / "pint_run" / "run.h5") as file:
            return file[name][:] if name in file else file.attrs[name]

    def differences(self) -> tuple[list[str], list[str]]:
        """Return the new files, and the new lines of the others, of the copy."""
        new, lines = [], []
        for path in (self.folder / "pint_diffusion").rglob("*.py"):
            name = str(path.relative_to(self.folder))
            before = PACKAGE.parent / name
            if not before.exists():
                new.append(name)
            else:
                old = before.read_text().splitlines()
                lines += [line for line in path.read_text().splitlines() if line not in old]
        return new, lines


@pytest.fixture
def copy(tmp_path, mixture_file) -> Copy:
    return Copy(tmp_path, mixture_file)


def code_lines(text: str) -> int:
    """Number of lines of a module, but for imports, docstrings and empty lines."""
    text = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    lines = [line.strip() for line in text.splitlines()]
    return sum(bool(line) and not line.startswith(("import ", "from ", "#")) for line in lines)


def test_there_are_five_recipes():
    assert len(RECIPES) == 5
    assert {recipe.file.split("/")[1] for recipe in RECIPES.values()} == {
        *("solvers", "methods", "models", "runtime", "report")
    }


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_is_one_short_file_and_one_line_in_the_style_of_the_house(copy, title):
    recipe = RECIPES[title]
    assert code_lines(recipe.text) <= LINES
    copy.follow(recipe)
    assert copy.differences() == ([recipe.file], [recipe.line])
    changed = [recipe.file, recipe.place]
    for check in ("check", "format --check"):
        ruff = [sys.executable, "-m", "ruff", *check.split(), "--no-cache"]
        command = [*ruff, "--config", str(ROOT / "pyproject.toml"), *changed]
        ended = subprocess.run(
            command, cwd=copy.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("title", RECIPES)
def test_the_line_is_needed(copy, title):
    copy.follow(RECIPES[title], with_line=False)
    ended = copy.show(RECIPES[title])
    assert ended.code == (2 if RECIPES[title].is_command else 1), ended


def test_a_solver_has_its_flag_and_its_order(copy):
    recipe = RECIPES["A solver with an option"]
    copy.follow(recipe)
    ended = copy.show(recipe, "--tolerance", 1e-6)
    assert ended.code == 0, ended
    assert copy.read("iterations") > 0
    assert np.abs(copy.read("samples") - copy.read("sequential")).max() < 1e-6
    assert "--inside X" in copy.sample("--help", "--solver", "midpoint").out
    ended = copy.run("-c", ORDER)
    assert ended.code == 0, ended


ORDER = """
import torch
import pint_diffusion as pd
from pint_diffusion.solvers import Midpoint

network = pd.load_denoiser("gmm:mixture.npz", dtype=torch.float64)
spacing = pd.Spacing("karras")


def answer(solver, steps):
    given = dict(steps=steps, samples=4, spacing=spacing)
    return pd.sample(network, pd.Sequential(), solver, **given).samples


truth = answer(pd.Heun(), 400)
errors = [float((answer(Midpoint(), steps) - truth).norm()) for steps in (20, 40)]
assert 3 < errors[0] / errors[1] < 5, errors
"""


def test_a_method_has_the_sequential_bits(copy):
    recipe = RECIPES["A method"]
    copy.follow(recipe)
    ended = copy.show(recipe)
    assert ended.code == 0, ended
    assert (copy.read("method"), copy.read("exact")) == ("picard", True)
    assert copy.read("iterations") > 1
    assert (copy.read("samples") == copy.read("sequential")).all()
    entries = "from pint_diffusion.commands.compare.entries import entries"
    ended = copy.run("-c", f"{entries}; print(*entries(['picard'], [4, 6], 16, {{}}))")
    assert ended.out.count("Picard(window=") == 2, ended


def test_a_kind_of_model_draws_its_points(copy):
    recipe = RECIPES["A kind of model"]
    copy.follow(recipe)
    ended = copy.show(recipe)
    assert ended.code == 0, ended
    apart = np.abs(copy.read("samples")[:, None] - POINTS).max(axis=(2, 3, 4)).min(axis=1)
    assert (apart < 0.02).all()
    assert "points:FILE.npy" in copy.sample("--help").out
    ended = copy.sample("--model", "points:none.npy")
    assert (ended.code, ended.err.count("no such file")) == (2, 1)


def test_a_transport_is_late_and_has_the_bits_of_one_process(copy):
    recipe = RECIPES["A transport"]
    copy.follow(recipe)
    ended = copy.show(recipe)
    assert ended.code == 0, ended
    late = copy.read("samples")
    # Seven boundary states in a row take a message each, so it can't have taken less than this.
    assert copy.read("wall_time") > 7 * 0.1
    _, _, flags = recipe.shown.partition("--transport late ")
    ended = copy.sample(*shlex.split(flags), "--force")
    assert ended.code == 0, ended
    assert (copy.read("samples") == late).all()


def test_an_output_writes_the_answers(copy):
    recipe = RECIPES["An output"]
    copy.follow(recipe)
    check = "run = " + recipe.shown.splitlines()[-1]
    program = recipe.shown.rpartition("\n")[0] + f"\n{check}\n" + SAME
    ended = copy.run("-c", program)
    assert ended.code == 0, ended


SAME = """
import numpy as np

assert run.iterations > 0
for k, answer in enumerate(run.iterates):
    assert (np.load(f"answers/iteration-{k:02d}.npy") == answer.numpy()).all()
"""
