"""Going on with a run runs no code that the user can not be known to want, and finds its files."""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import py_compile
import shutil
import sys

import h5py
import numpy as np
import pytest
import yaml

import pint_diffusion as pd
from pint_diffusion.commands.cli import main
from pint_diffusion.report.inspection import inspect_run
from pint_diffusion.store import directory
from pint_diffusion.store.master import read_run

CODE = """\
from typing import ClassVar
import numpy as np
import pint_diffusion as pd
from pint_diffusion.models.mixture import GaussianMixture
open({mark!r}, "a").write("x")
class Own(pd.Parareal):
    name: ClassVar[str] = "own"
class OwnSolver(pd.DDIM):
    name: ClassVar[str] = "own_solver"
def factory(device, dtype):
    return GaussianMixture(np.linspace(-1, 1, 6).reshape(2, 3), [0.1] * 2, [0.5] * 2, device, dtype)
"""
GIVEN = ["--steps", "8", "--slices", "4", "--samples", "2", "--batching", "off"]
GIVEN += ["--tolerance", "0", "--max-iterations", "2"]
OPTIONS = {
    "model": "factory",
    "coarse_model": "factory",
    "method": "Own",
    "solver": "OwnSolver",
    "coarse_solver": "OwnSolver",
}
"""Every option that may name code of a third party, and what is named here."""


def flag(option):
    return "--" + option.replace("_", "-")


@pytest.fixture(params=OPTIONS)
def option(request):
    return request.param


def forget():
    """Let the registries know no class of a third party, as those of another process."""
    for kind in (pd.Method, pd.Solver):
        kind.registry._others.clear()


@pytest.fixture(autouse=True)
def fresh():
    forget()
    yield
    forget()


def write_code(folder, option="code"):
    """Write a file with code, which leaves a mark when it is run; return its path."""
    path = folder / f"{option}.py"
    path.write_text(CODE.format(mark=str(folder / f"{option}.mark")))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with code in every place that there is, each in a file of its own."""
    folder = tmp_path_factory.mktemp("made")
    named = {option: f"{write_code(folder, option)}:{what}" for option, what in OPTIONS.items()}
    flags = [word for option, spec in named.items() for word in (flag(option), spec)]
    assert main(["sample", *flags, *GIVEN, "--out", str(folder / "run")]) == 3
    assert len(list(folder.glob("*.mark"))) == len(OPTIONS)
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of it; its code is as it was again afterwards."""
    for path in made.glob("*.mark"):
        path.unlink()
    yield shutil.copytree(made / "run", tmp_path / "run")
    for option in OPTIONS:
        (made / f"{option}.py").unlink(missing_ok=True)
        write_code(made, option)


@pytest.fixture
def plain(tmp_path, mixture_file):
    """A run without code of a third party."""
    given = ["--model", f"gmm:{mixture_file}", *GIVEN, "--out", str(tmp_path / "run")]
    assert main(["sample", *given]) == 3
    return tmp_path / "run"


def resume(run, *more):
    return ["resume", str(run), "--max-iterations", "3", *map(str, more)]


def refused(given, capfd, *folders) -> str:
    """Run a command that is refused in one sentence, and runs no code that leaves a mark."""
    capfd.readouterr()
    assert main(given) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert [mark for folder in folders for mark in folder.glob("*.mark")] == []
    return line


def named_again(made, *options):
    return [word for one in options for word in (flag(one), f"{made / one}.py:{OPTIONS[one]}")]


def test_code_that_is_as_it_was_is_run(run, made):
    assert main(resume(run)) == 3
    assert len(list(made.glob("*.mark"))) == len(OPTIONS)


def test_code_that_has_changed_is_run_only_if_it_is_named_again(run, made, option, capfd):
    code = made / f"{option}.py"
    code.write_text(code.read_text() + "# changed\n")
    said = refused(resume(run), capfd, made)
    assert (
        f"names the code {code}:{OPTIONS[option]} as {flag(option)}, which is gone or has" in said
    )
    assert main(resume(run, *named_again(made, option))) == 3
    assert (made / f"{option}.mark").exists()
    forget()
    assert main(["resume", str(run), "--max-iterations", "4"]) == 0  # named once is known


def test_code_that_is_gone_is_one_sentence(run, made, option, capfd):
    (made / f"{option}.py").unlink()
    assert "which is gone or has changed since the run began" in refused(resume(run), capfd, made)


def test_code_behind_a_link_that_leads_elsewhere_now_is_not_run(run, made, capfd):
    code, moved, other = made / "model.py", made / "moved.py", made / "other.py"
    code.rename(moved)
    code.symlink_to(moved)
    assert main(resume(run)) == 3  # the same content
    for mark in made.glob("*.mark"):
        mark.unlink()
    other.write_text(moved.read_text() + "# changed\n")
    code.unlink()
    code.symlink_to(other)
    assert "has changed since the run began" in refused(resume(run), capfd, made)


@pytest.mark.parametrize("what", ["folder", "run.h5", "manifest.json"])
@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_a_folder_that_others_can_write_to_names_no_code(run, made, capfd, what, bits):
    path = run if what == "folder" else run / what
    path.chmod(path.stat().st_mode | bits)
    assert f"and others can write to {path}" in refused(resume(run), capfd, made)


def test_a_folder_of_another_user_names_no_code_but_the_user_may(run, made, capfd, monkeypatch):
    monkeypatch.setattr(directory.os, "geteuid", lambda: os.getuid() + 1)
    assert f"and {run} belongs to another user" in refused(resume(run), capfd, made)
    *others, last = OPTIONS
    said = refused(resume(run, *named_again(made, *others)), capfd, made)
    assert f"as {flag(last)}, and" in said
    assert main(resume(run, *named_again(made, *OPTIONS))) == 3


def forge(run, change):
    """Change the settings in a master file and seal it anew, as whoever can write it could."""
    image = io.BytesIO((run / "run.h5").read_bytes()[:-32])
    with h5py.File(image, "r+") as file:
        config = yaml.safe_load(file.attrs["config"])
        change(config)
        file.attrs["config"] = yaml.safe_dump(config)
    content = image.getvalue()
    (run / "run.h5").write_bytes(content + hashlib.sha256(content).digest())


def name_code(config, option, spec):
    if option.startswith("coarse_"):
        config, option = config["coarse"], option.removeprefix("coarse_")
    config[option] = spec if option == "model" else {"name": spec}


def test_code_that_was_put_into_a_master_file_is_not_run(plain, tmp_path, option, capfd):
    spec = f"{write_code(tmp_path)}:{OPTIONS[option]}"
    forge(plain, lambda config: name_code(config, option, spec))
    assert f"names the code {spec} as {flag(option)}" in refused(resume(plain), capfd, tmp_path)
    read_run(plain)  # these run no code
    assert inspect_run(plain).whole
    assert not (tmp_path / "code.mark").exists()


@pytest.mark.parametrize("place", ["corrector", "method"])
def test_nor_is_code_in_a_place_where_none_belongs(plain, tmp_path, capfd, place):
    code = write_code(tmp_path)
    inner = {"name": f"{code}:Own"} if place == "corrector" else {"solver": f"{code}:OwnSolver"}
    forge(plain, lambda config: config[place].update(inner))
    refused(resume(plain), capfd, tmp_path)


def test_another_code_than_the_one_in_the_file_lets_neither_run(plain, tmp_path, capfd):
    """Naming one piece of code is no consent to another."""
    code, mine = write_code(tmp_path), write_code(tmp_path, "mine")
    forge(plain, lambda config: name_code(config, "method", f"{code}:Own"))
    refused(resume(plain, "--method", f"{mine}:Own"), capfd, tmp_path)


def test_code_of_a_module_in_a_package_is_known_by_its_files(tmp_path, capfd, monkeypatch):
    package = tmp_path / "site" / "theirs"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.move(write_code(tmp_path), package / "models.py")
    monkeypatch.syspath_prepend(package.parent)
    folder = tmp_path / "run"
    given = ["--model", "theirs.models:factory", *GIVEN, "--out", str(folder)]
    assert main(["sample", *given]) == 3
    for changed in (package / "__init__.py", package / "models.py"):
        for name in ("theirs.models", "theirs"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        (tmp_path / "code.mark").unlink(missing_ok=True)
        before = changed.read_text()
        changed.write_text(before + "# changed\n")
        said = refused(resume(folder), capfd, tmp_path)
        assert "names the code theirs.models:factory as --model" in said
        changed.write_text(before)
    assert main(resume(folder)) == 3


def test_compiled_code_beside_a_file_is_neither_run_nor_left(tmp_path):
    """A digest of the source would say nothing of it."""
    code = write_code(tmp_path)
    evil = tmp_path / "evil.py"
    evil.write_text("open({!r}, 'w').write('x')\n".format(str(tmp_path / "bad")))
    source = code.read_text()
    compiled = importlib.util.cache_from_source(str(code))
    size = max(len(source), evil.stat().st_size)
    for path, text in ((evil, evil.read_text()), (code, source)):
        path.write_text(text.ljust(size, "#"))
        os.utime(path, (1e9, 1e9))
    py_compile.compile(str(evil), cfile=compiled, doraise=True)
    assert main(["sample", "--model", f"{code}:factory", *GIVEN, "--out", str(tmp_path / "r")]) == 3
    assert (tmp_path / "code.mark").exists()
    assert not (tmp_path / "bad").exists()
    os.unlink(compiled)
    assert main(resume(tmp_path / "r")) == 3
    assert os.listdir(os.path.dirname(compiled)) == []


# ------------------------------------------------------------------------------- from elsewhere


def test_a_run_with_relative_names_goes_on_from_another_folder(tmp_path, monkeypatch):
    """Model, coarse model, grid, method and solver were named from the folder of the start."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    write_code(here)
    monkeypatch.chdir(here)
    made = ["grid", "grid.yaml", "--model", "code.py:factory", "--steps", "8", "--slices", "4"]
    assert main(made) == 0
    given = ["--model", "code.py:factory", "--coarse-model", "./code.py:factory", "--grid"]
    given += ["grid.yaml", "--method", "code.py:Own", "--solver", "code.py:OwnSolver"]
    given += ["--coarse-solver", "code.py:OwnSolver", "--samples", "2", "--batching", "off"]
    given += ["--tolerance", "0"]
    assert main(["sample", *given, "--out", "whole"]) == 0
    assert main(["sample", *given, "--max-iterations", "2", "--out", "run"]) == 3
    shutil.move(here / "run", there / "run")
    forget()
    monkeypatch.chdir(there)
    assert main(["resume", "run", "--max-iterations", "4"]) == 0
    assert np.array_equal(read_run("run").boundary, read_run(here / "whole").boundary)
    config = read_run("run").config
    assert config["model"] == f"{here}/code.py:factory"
    assert config["grid"] == f"{here}/grid.yaml"


def test_mixtures_and_runs_to_begin_on_too(tmp_path, mixture_file, monkeypatch):
    shutil.copy(mixture_file, tmp_path / "m.npz")
    monkeypatch.chdir(tmp_path)
    given = ["--model", "gmm:m.npz", "--steps", "8", "--samples", "2"]
    assert main(["sample", *given, "--method", "sequential", "--out", "first"]) == 0
    given += ["--method", "parataa", "--window", "8", "--max-iterations", "1", "--out", "run"]
    assert main(["sample", *given, "--warm-start", "first", "--tolerance", "0"]) == 3
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["resume", "../run", "--max-iterations", "8"]) == 0
    config = read_run("../run").config
    assert config["model"] == f"gmm:{tmp_path}/m.npz"
    assert config["method"]["warm_start"] == f"{tmp_path}/first"


def test_a_name_of_nothing_stays_as_it_was_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--model", "gmm:m.npz", "--out", "run"]) == 2
    assert "--model gmm:m.npz: no such file" in capfd.readouterr().err


def test_a_run_of_a_method_that_is_not_known_here_can_be_read(plain):
    def another(config):
        config["method"] = {"name": "picard", "window": 4}
        config["solver"] = {"name": "midpoint", "inside": 0.4}
        config["coarse"]["solver"] = {"name": "midpoint", "inside": 0.4}

    forge(plain, another)
    record = read_run(plain)
    assert record.config["method"]["name"] == "picard"
    assert inspect_run(plain).whole
    assert main(["inspect", str(plain)]) == 0
    assert main(["resume", str(plain)]) == 2
