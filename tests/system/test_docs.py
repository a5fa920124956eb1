"""What the pages say is what the program does: their commands run, their tables are complete.

A fenced block below ``<!-- file: NAME -->`` is written to a file, one below ``<!-- tested -->`` is
run. A page is gone through from top to bottom, in one folder that also holds ``jobs/``.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import fault_table, flag_table
from helpers.launch import launch

from pint_diffusion.grid import even_bounds
from pint_diffusion.report.bound import dataflow_bound
from pint_diffusion.runtime.events import EVALUATION_KINDS, EVENT_DTYPE
from pint_diffusion.settings.check import Check
from pint_diffusion.settings.compare import Compare
from pint_diffusion.settings.export import Export
from pint_diffusion.settings.grid import GridSettings
from pint_diffusion.settings.inspect import Inspect
from pint_diffusion.settings.reading import read_flat
from pint_diffusion.settings.run import Settings
from pint_diffusion.solvers import SOLVERS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"<!-- (tested|file: (\S+)) -->\n```(\w+)\n(.*?)\n```\n", re.DOTALL)
PAGES = sorted(page.name for page in DOCS.glob("*.md") if "<!-- tested -->" in page.read_text())
FAST = {"EMULATED_MS": "1"}


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(file or "", language, text) of the marked blocks of a page."""
    text = (DOCS / page).read_text()
    found = [(name, language, body) for _, name, language, body in FENCE.findall(text)]
    marks = re.findall(r"^<!-- (?:tested|file: .*) -->$", text, re.MULTILINE)
    assert len(found) == len(marks), f"a mark in {page} has no block right below it"
    return found


def commands(console: str) -> list[list[str]]:
    """The argument lists of a console block's commands."""
    lines = console.replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


def run(command: list[str], folder: Path):
    ranks = 1
    if command[:2] == ["mpiexec", "-n"]:
        ranks, command = int(command[2]), command[3:]
    assert command[0] == "pint-diffusion", f"no way to test {command}"
    return launch(*command[1:], ranks=ranks, cwd=folder, environment=FAST)


def test_there_are_pages_with_something_to_test():
    assert {"running.md", "models.md", "grids.md", "files.md"} <= set(PAGES)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs(page, tmp_path, mixture_file):
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    shutil.copy(mixture_file, tmp_path / "mixture.npz")
    for name, language, text in blocks(page):
        if name:
            (tmp_path / name).write_text(text + "\n")
        elif language == "python":
            ended = launch(program=["-c", text], cwd=tmp_path, environment=FAST)
            assert ended.code == 0, f"{page}:\n{text}\n{ended}"
        else:
            assert language == "console"
            for command in commands(text):
                ended = run(command, tmp_path)
                assert ended.code == 0, f"{page}: {command}\n{ended}"


def test_every_command_in_a_console_block_is_a_command_there_is(tmp_path, monkeypatch):
    """Those too that are not run: mistyped flags are found by reading them."""
    kinds = {
        **{"sample": Settings, "resume": Settings, "grid": GridSettings},
        **{"inspect": Inspect, "export": Export, "check": Check, "compare": Compare},
    }
    seen = 0
    monkeypatch.chdir(tmp_path)
    for name, _, text in (block for page in PAGES for block in blocks(page)):
        if name:
            Path(name).write_text(text + "\n")
    for page in [*DOCS.glob("*.md"), ROOT / "README.md", *ROOT.glob("jobs/*.md")]:
        for console in re.findall(r"```console\n(.*?)\n```", page.read_text(), re.DOTALL):
            for command in commands(console):
                if "pint-diffusion" not in command or "--help" in command:
                    continue
                what, *given = command[command.index("pint-diffusion") + 1 :]
                assert what in kinds, command
                read_flat(kinds[what], given[what == "resume" :], {})
                seen += 1
    assert seen > 10


def test_the_tables_of_flags_are_made_from_the_fields():
    """``python tests/helpers/flag_table.py`` writes them."""
    assert flag_table.tables() in (DOCS / "running.md").read_text()


def test_the_table_of_faults_is_that_of_the_suite():
    """``python -m helpers.fault_table`` writes it."""
    assert fault_table.table() in (DOCS / "running.md").read_text()


def test_the_file_page_names_everything_that_a_run_writes(tmp_path, mixture_file):
    given = ["--model", f"gmm:{mixture_file}", "--steps", 16, "--slices", 4, "--samples", 2]
    ended = launch("sample", *given, "--verify", "--out", tmp_path / "run")
    assert ended.code == 0, ended
    page = (DOCS / "files.md").read_text()
    master, part_page = page[page.index("## The master") :].split("## The parts")
    one_part = next((tmp_path / "run" / "parts").iterdir())
    for file, section in (("run.h5", master), (one_part, part_page)):
        names: list[str] = []
        with h5py.File(tmp_path / "run" / file) as written:
            written.visititems(
                lambda name, item, to=names: to.append(name) if hasattr(item, "dtype") else None
            )
            names += written.attrs
        assert len(names) >= 2
        assert [name for name in names if f"`{name}`" not in section] == []
    kinds = [kind.decode() for kind in EVALUATION_KINDS] + ["wait", "send", "recv"]
    assert [name for name in (*EVENT_DTYPE.names, *kinds) if f"`{name}`" not in master] == []


def test_the_table_of_solvers_has_every_solver_as_it_is_registered():
    page = (DOCS / "solvers.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)`(?:, ([^|]+))? \| (\d) \| (\d) \| (\d) \| (\S+) \| (\w+) \|", page, re.M
    )
    assert {row[0] for row in rows} == SOLVERS.keys()
    for name, _, evaluations, order, history, noise, coarse in rows:
        solver = SOLVERS[name]
        assert (int(evaluations), int(order)) == (solver.evaluations, solver.order), name
        assert int(history) == solver.history, name
        switch = {noise.strip("`-"): 0.5} if noise not in ("yes", "no") else {}
        assert solver(**switch).stochastic == (noise != "no"), name
        assert not switch or not solver(**dict.fromkeys(switch, 0)).stochastic, name
        assert (coarse == "yes") == (not solver.history), name


def bound_of(steps: int, slices: int, k: int) -> int:
    fine = np.diff(even_bounds(steps, slices)).tolist()
    return dataflow_bound(fine, [1] * slices, k)


def test_the_table_of_bounds_is_the_formula():
    page = (DOCS / "theory.md").read_text()
    rows = re.findall(r"^\| (25|196|961) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 3
    for first, rest in rows:
        steps, cells = int(first), rest.split(" | ")
        assert len(cells) == 6
        for column, cell in enumerate(cells):
            k, best = column % 3 + 1, column >= 3
            value, _, slices = cell.removesuffix(")").partition(" (M = ")
            m = int(slices) if slices else int(np.sqrt(steps))
            bound = bound_of(steps, m, k)
            assert f"{steps / bound:.2f}" == value
            if best:
                others = range(k, 3 * int(np.sqrt(k * steps)))
                assert bound == min(bound_of(steps, o, k) for o in others)
