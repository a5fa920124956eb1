"""Every file of a run says to which run it belongs; files of two runs are not taken together."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import pint_diffusion as pd
from pint_diffusion.commands.cli import main
from pint_diffusion.errors import InputError
from pint_diffusion.runtime.world import open_world
from pint_diffusion.store.manifest import Manifest
from pint_diffusion.store.master import read_run

GIVEN = ["--slices", "4", "--samples", "2", "--batching", "off", "--max-iterations", "2"]
GIVEN += ["--tolerance", "0"]


@pytest.fixture(scope="module")
def two(tmp_path_factory, mixture_file):
    """Two runs that differ in their grid, and one that is alike but for its identity."""
    folder = tmp_path_factory.mktemp("two")
    for name, spacing in (("one", "trailing"), ("other", "karras"), ("twin", "trailing")):
        given = ["--model", f"gmm:{mixture_file}", "--steps", "12", "--spacing", spacing, *GIVEN]
        assert main(["sample", *given, "--out", str(folder / name)]) == 3
    return folder


@pytest.fixture(params=["other", "twin"])
def foreign(request, two):
    return two / request.param


@pytest.fixture
def run(two, tmp_path):
    return shutil.copytree(two / "one", tmp_path / "run")


def identity(path: Path) -> str:
    if path.suffix == ".json":
        return json.loads(path.read_text())["run"]
    with h5py.File(path) as file:
        return file.attrs["run"]


def told(capfd, *given) -> tuple[int, str]:
    capfd.readouterr()
    code = main([*map(str, given)])
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    return code, said.out + said.err


def test_every_file_has_the_identity_of_its_run_and_a_resumed_run_keeps_it(run, foreign):
    assert main(["resume", str(run), "--max-iterations", "3"]) == 3
    files = [path for path in run.rglob("*") if path.suffix in (".h5", ".json")]
    assert {path.name[:6] for path in files} >= {"run.h5", "manife", "events"}
    assert len(files) > 8
    (one,) = {identity(path) for path in files}
    assert len(one) == 32
    assert one != identity(foreign / "run.h5")
    assert read_run(run).facts["run"] == one


@pytest.mark.parametrize("name", ["run.h5", "manifest.json"])
def test_a_master_and_a_manifest_of_two_runs_are_refused(run, foreign, capfd, name):
    """This is the case that was read as a finished run, with samples under the wrong grid."""
    shutil.copy(foreign / name, run / name)
    sentence = f"{run / 'manifest.json'} is of another run than run.h5 there"
    before = sorted(os.listdir(run / "parts"))
    for given in (["inspect", run], ["resume", run, "--max-iterations", "3"]):
        code, said = told(capfd, *given)
        assert code == 2
        assert len(said.splitlines()) == 1
        assert sentence in said
    assert sorted(os.listdir(run / "parts")) == before


def test_a_master_beside_the_parts_of_another_run_shows_none_of_them(run, foreign, capfd):
    shutil.copy(foreign / "run.h5", run / "run.h5")
    with pytest.raises(InputError, match=r"is missing|is of another run than run\.h5 there"):
        read_run(run)
    assert told(capfd, "export", run)[0] == 2


def test_events_of_another_run_are_refused_by_name(run, foreign, tmp_path, capfd):
    name = "events-00-0000.h5"
    shutil.copy(foreign / name, run / name)
    sentence = f"{run / name} is of another run than run.h5 there"
    with pytest.raises(InputError, match=sentence):
        read_run(run)
    code, said = told(capfd, "inspect", run)
    assert code == 1
    assert f"{name} is of another run" in said
    code, said = told(capfd, "export", run, "--trace", tmp_path / "trace.json")
    assert code == 2
    assert sentence in said


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("there", ["a run", "nothing"])
def test_a_rank_with_another_folder_is_named_also_if_a_run_is_in_it(mixture_file, tmp_path, there):
    """As on a host with a disk of its own, on which somebody has run before."""
    world = open_world("mpi")
    folder, network = tmp_path / f"rank{world.rank}", pd.load_denoiser(f"gmm:{mixture_file}")
    given = {"steps": 8, "samples": 2}
    if there == "a run" and world.rank > 0:
        pd.sample(network, pd.Parareal(slices=4), comm=None, outputs=[pd.Files(folder)], **given)
    with pytest.raises(pd.InputError, match=r"rank 1 .* is not rank 0's folder here"):
        pd.sample(
            network, pd.Parareal(slices=8), comm=world.comm, outputs=[pd.Files(folder)], **given
        )
    if world.rank == 0:
        with h5py.File(folder / "run.h5") as file:
            assert "is not rank 0's folder" in file.attrs["status"]


def swap(run: Path, foreign: Path, k: int) -> str:
    """Let the manifest of a run name a part of another one, as whoever wants to deceive would."""
    manifest = Manifest.read(run)
    mine = next(part for part in manifest.rows[k] if part.group == "a")
    theirs = next(part for part in Manifest.read(foreign).rows[k] if part.group == "a")
    shutil.copy(foreign / "parts" / str(theirs), run / "parts" / str(theirs))
    manifest.rows[k] = {
        (theirs if part == mine else part): where for part, where in manifest.rows[k].items()
    }
    manifest.write()
    return str(theirs)


def test_a_part_of_another_run_is_named_and_an_earlier_iteration_is_taken(
    run, foreign, two, tmp_path, capfd
):
    whole = shutil.copytree(two / "one", tmp_path / "whole")
    name = swap(run, foreign, 2)
    code, said = told(capfd, "inspect", run)
    assert code == 1
    assert f"parts/{name} is of another run" in said
    assert "1 whole, 1 another run" in said
    code, said = told(capfd, "resume", run, "--max-iterations", "4")
    assert code == 0
    assert f"{name} is of another run than run.h5 there" in said
    assert "went on after iteration 1" in said
    assert main(["resume", str(whole), "--max-iterations", "4"]) == 0
    assert np.array_equal(read_run(run).boundary, read_run(whole).boundary)


def test_a_view_of_a_part_of_another_run_is_refused(run, foreign, capfd):
    """A master that was made to show it, and sealed anew."""
    theirs = next(part for part in Manifest.read(foreign).rows[1] if part.group == "a")
    shutil.copy(foreign / "parts" / str(theirs), run / "parts" / str(theirs))
    image = io.BytesIO((run / "run.h5").read_bytes()[:-32])
    with h5py.File(image, "r+") as file:
        shape, dtype = file["boundary"].shape, file["boundary"].dtype
        del file["boundary"]
        layout = h5py.VirtualLayout(shape, dtype)
        source = h5py.VirtualSource(f"parts/{theirs}", "states", shape=(3, 1, *shape[2:]))
        layout[1, 1:4] = source[:, 0]
        file.create_virtual_dataset("boundary", layout)
    content = image.getvalue()
    (run / "run.h5").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(InputError, match=f"{theirs} is of another run"):
        read_run(run)
