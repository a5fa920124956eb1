"""A run writes into its own folder and nowhere else, whatever is put in the way."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import pint_diffusion as pd
from pint_diffusion.commands import sample
from pint_diffusion.commands.cli import main
from pint_diffusion.errors import InputError
from pint_diffusion.report.inspection import inspect_run
from pint_diffusion.store.clear import clear_folder, refuse_full
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.manifest import Manifest
from pint_diffusion.store.names import LOCK, MANIFEST, MASTER, PARTS, RESERVE, STREAM, is_of_a_run
from pint_diffusion.store.writer import Writer

GIVEN = ["--steps", "12", "--slices", "4", "--samples", "2", "--batching", "off"]
GIVEN += ["--max-iterations", "2", "--tolerance", "0"]
MORE = ["--max-iterations", "3"]


@pytest.fixture(scope="module")
def model(mixture_file):
    return ["--model", f"gmm:{mixture_file}"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, model):
    """A run that can go on, with a stream."""
    folder = tmp_path_factory.mktemp("made") / "run"
    assert main(["sample", *model, *GIVEN, "--stream", "--out", str(folder)]) == 3
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def command(which, run, model):
    return {
        "sample": ["sample", *model, *GIVEN, "--stream", "--force", "--out", str(run)],
        "resume": ["resume", str(run), *MORE, "--stream"],
    }[which]


def refused(given, capfd) -> str:
    """Run a command that is refused in one sentence."""
    capfd.readouterr()
    assert main(given) == 2
    said = capfd.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line


FILES = [MASTER, MANIFEST, LOCK, RESERVE, "run.h5.new", "manifest.json.new", "samples.png"]
FILES += ["wavefront.png", "events-00-0000.h5", f"{PARTS}/PART", f"{STREAM}/iteration-00.png"]


# ------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("which", ["sample", "resume"])
@pytest.mark.parametrize("name", [*FILES, PARTS, STREAM])
def test_a_symbolic_link_in_the_folder_is_refused_by_name_and_leads_nowhere(
    run, tmp_path, model, capfd, which, name
):
    name = name.replace("PART", sorted(os.listdir(run / PARTS))[0])
    outside, at = tmp_path / "outside", run / name
    outside.mkdir()
    if at.exists():
        shutil.move(at, outside / at.name)
    else:
        (outside / at.name).write_text("mine")
    at.symlink_to(outside / at.name)
    before = content(outside), content(run)
    assert f"{at} is a symbolic link" in refused(command(which, run, model), capfd)
    assert (content(outside), content(run)) == before


@pytest.mark.parametrize("which", ["sample", "resume"])
def test_a_link_to_nothing_makes_nothing(run, tmp_path, model, capfd, which):
    (run / LOCK).symlink_to(tmp_path / "made")
    assert f"{run / LOCK} is a symbolic link" in refused(command(which, run, model), capfd)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("which", ["sample", "resume"])
def test_a_lock_file_that_has_another_name_is_refused(run, tmp_path, model, capfd, which):
    (tmp_path / "mine").write_text("mine")
    os.link(tmp_path / "mine", run / LOCK)
    assert f"{run / LOCK} is a hard link" in refused(command(which, run, model), capfd)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_lock_file_that_is_a_pipe_is_refused_and_not_waited_for(run, capfd):
    os.mkfifo(run / LOCK)
    assert f"{run / LOCK} is no file" in refused(["resume", str(run)], capfd)


@pytest.mark.parametrize("which", ["sample", "resume"])
def test_what_has_another_name_keeps_its_content_there(run, tmp_path, model, which):
    """Snapshots are made of hard links: a run that goes on must not change them."""
    (run / RESERVE).write_bytes(b"old")
    saved = shutil.copytree(run, tmp_path / "saved", copy_function=os.link)
    before = content(saved)
    assert main(command(which, run, model)) == 3
    assert content(saved) == before


def test_a_run_may_be_reached_by_a_link(tmp_path, model):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to("scratch")
    assert main(["sample", *model, *GIVEN, "--out", str(tmp_path / "run")]) == 3
    assert main(["resume", str(tmp_path / "run"), *MORE]) == 3
    assert inspect_run(tmp_path / "scratch").whole


@pytest.mark.parametrize("name", ["samples.png", "wavefront.png.new"])
def test_a_link_that_comes_in_mid_run_is_replaced_and_not_followed(
    tmp_path, model, monkeypatch, name
):
    run, mine = tmp_path / "run", tmp_path / "mine"
    mine.write_text("mine")
    reads = sample.read_run

    def read_run(folder):
        (run / name).symlink_to(mine)
        return reads(folder)

    monkeypatch.setattr(sample, "read_run", read_run)
    assert main(["sample", *model, *GIVEN, "--out", str(run)]) == 3
    assert mine.read_text() == "mine"
    assert not any(path.is_symlink() for path in run.rglob("*"))


# ------------------------------------------------------------------------------------- exchange


def by_a_link(run, other):
    run.symlink_to(other)


def by_a_folder(run, other):
    shutil.copytree(other, run)


def parts_by_a_link(run, other):
    moved = run.with_name("moved")
    moved.rename(run)
    (run / PARTS).rename(run / "old")
    (run / PARTS).symlink_to(other / PARTS)


@pytest.mark.parametrize("exchange", [by_a_link, by_a_folder, parts_by_a_link])
def test_a_folder_that_is_exchanged_in_mid_run_ends_the_run_and_nothing_is_written_elsewhere(
    world, mixture_file, tmp_path, exchange
):
    """The run that was moved away says so itself, and goes on from where it is."""
    network = pd.load_denoiser(f"gmm:{mixture_file}")
    tmp_path = world.share(tmp_path)
    run, moved, other = tmp_path / "run", tmp_path / "moved", tmp_path / "other"
    if world.rank == 0:
        (other / PARTS).mkdir(parents=True)
        for name in (MASTER, f"{PARTS}/mine.h5", "samples.png"):
            (other / name).write_text("mine")
    before = content(other) if world.rank == 0 else {}
    written, go = threading.Event(), 3

    def watch(k, answer, change):
        if k == go:
            while 0 not in Manifest.read(run).rows:  # something to go on from
                written.wait(0.01)
            run.rename(moved)
            exchange(run, other)

    method = pd.Parareal(slices=8, tolerance=0)
    given = {"steps": 16, "samples": 2, "batching": "off", "comm": getattr(world, "comm", None)}
    outputs = [pd.Files(run), watch]
    with pytest.raises((pd.RunFailed, pd.StoreError), match="moved or exchanged"):
        pd.sample(network, method, outputs=outputs, **given)
    world.barrier()
    if world.rank == 0:
        assert content(other) == before
        if exchange is by_a_folder:
            assert content(run) == before
        home = run if exchange is parts_by_a_link else moved
        assert inspect_facts(home)["status"].startswith("failed: ")
        if exchange is parts_by_a_link:
            (run / PARTS).unlink()
            (run / "old").rename(run / PARTS)
    world.barrier()
    home = run if exchange is parts_by_a_link else moved
    done = pd.sample(network, method, outputs=[pd.Files(home, resume=True)], **given)
    if world.rank == 0:
        record = pd.read_run(home)
        assert record.facts["resumed_after"] >= 0
        assert np.array_equal(record.samples, done.samples.numpy())


def test_a_folder_that_is_exchanged_when_all_parts_are_written_is_noticed_too(
    tmp_path, model, monkeypatch, capfd
):
    run, other = tmp_path / "run", tmp_path / "other"
    other.mkdir()
    closes = Writer.close

    def close(self):
        closes(self)
        if not run.is_symlink():
            run.rename(tmp_path / "moved")
            run.symlink_to(other)

    monkeypatch.setattr(Writer, "close", close)
    assert main(["sample", *model, *GIVEN, "--out", str(run)]) == 1
    assert "moved or exchanged" in capfd.readouterr().err
    assert content(other) == {}
    assert inspect_facts(tmp_path / "moved")["status"].startswith("failed: ")


def inspect_facts(folder):
    import h5py

    with h5py.File(folder / MASTER) as file:
        return dict(file.attrs)


# ------------------------------------------------------------------------------------- --force


def forced(model, folder):
    return ["sample", *model, *GIVEN, "--force", "--out", str(folder)]


def a_pipe(folder):
    folder.mkdir()
    os.mkfifo(folder / MASTER)


def files_of(*names):
    def make(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("mine")

    return make


NO_RUNS = {
    "a file": files_of("thesis.tex"),
    "many": files_of("a", "b", "c", "d"),
    "pictures": files_of("samples.png", "wavefront.png"),
    "a master that is none": files_of(MASTER),
    "a manifest that is none": files_of(MANIFEST, "x"),
    "parts of something": files_of("parts/wheel.step"),
    "parts that are whole": files_of("parts/00-0000-0000-a-0123456789abcdef.h5"),
    "a pipe": a_pipe,
}


@pytest.mark.parametrize("case", NO_RUNS)
def test_force_takes_no_folder_without_a_run(tmp_path, model, capfd, case):
    folder = tmp_path / "folder"
    NO_RUNS[case](folder)
    before = content(folder), sorted(os.listdir(folder))
    said = refused(forced(model, folder), capfd)
    assert f"--out {folder} holds no run that --force may overwrite" in said
    assert (content(folder), sorted(os.listdir(folder))) == before


def test_force_takes_neither_the_root_nor_home_nor_this_folder(tmp_path, monkeypatch, model, capfd):
    with pytest.raises(InputError, match="`out` / holds no run"):  # this reads only
        refuse_full(Directory.of(Path("/")), force=True)
    (tmp_path / ".profile").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert "--out . holds no run" in refused(forced(model, "."), capfd)
    assert "(.profile)" in refused(forced(model, tmp_path), capfd)
    assert os.listdir(tmp_path) == [".profile"]


def killed_start(folder):
    (folder / PARTS).mkdir(parents=True)
    (folder / PARTS / "00-0000-0000-a-0123456789abcdef.h5.new").write_text("half")
    for name in (LOCK, RESERVE, "manifest.json.new", "run.h5.new"):
        (folder / name).write_text("")


def emptied(folder):
    folder.mkdir()


def locked(folder):
    files_of(LOCK)(folder)


@pytest.mark.parametrize("leave", [emptied, locked, killed_start])
def test_force_takes_a_folder_that_is_empty_or_was_left_by_a_start(tmp_path, model, leave):
    leave(tmp_path / "run")
    assert main(forced(model, tmp_path / "run")) == 3
    assert inspect_run(tmp_path / "run").whole


@pytest.mark.parametrize("torn", [MASTER, MANIFEST, None])
def test_force_takes_a_run_and_leaves_alone_what_is_not_of_a_run(run, model, torn):
    if torn:
        (run / torn).write_bytes(b"torn")
    mine = ["notes.txt", "parts/notes.txt", "stream/mine.png", "sub/folder.txt"]
    files_of(*mine)(run)
    assert main(forced(model, run)) == 3
    assert all((run / name).read_text() == "mine" for name in mine)
    left = {name.partition("/")[0] for name in content(run)} - {"notes.txt", "sub", STREAM}
    assert all(map(is_of_a_run, left))
    assert {*os.listdir(run / STREAM)} == {"mine.png"}
    parts = [name for name in os.listdir(run / PARTS) if name != "notes.txt"]
    rows = Manifest.read(run).rows
    assert sorted(parts) == sorted(str(part) for row in rows.values() for part in row)


def test_a_run_whose_deletion_was_cut_short_anywhere_is_still_one(made, tmp_path, monkeypatch):
    """The last files to be deleted are those by which the run is known."""
    deletes, left = Directory.delete, len(content(made)) - 1
    for files in range(left):
        run, done = shutil.copytree(made, tmp_path / str(files)), []

        def delete(self, name, done=done, files=files):
            if len(done) == files and name != LOCK:
                raise OSError(5, "Input/output error")
            done.append(name)
            deletes(self, name)

        with monkeypatch.context() as here:
            here.setattr(Directory, "delete", delete)
            with pytest.raises(InputError, match="Input/output error"):
                clear_folder(run, force=True)
        refuse_full(Directory.of(run), force=True)
    assert {*content(run)} <= {MASTER, MANIFEST, LOCK}


def test_without_force_a_folder_must_be_empty(run, model, capfd):
    assert "is not empty" in refused([*forced(model, run)[:-3], "--out", str(run)], capfd)


# ------------------------------------------------------------------------------------- others


def test_compare_takes_no_folder_with_other_things(tmp_path, model, capfd):
    given = ["compare", *model, "--steps", "6", "--samples", "2", "--force", "--out"]
    (tmp_path / "compare.png").write_text("old")
    (tmp_path / "thesis.tex").write_text("mine")
    said = refused([*given, str(tmp_path)], capfd)
    assert "other things than a comparison, thesis.tex for one" in said
    assert sorted(os.listdir(tmp_path)) == ["compare.png", "thesis.tex"]


def test_export_follows_no_link(run, tmp_path):
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.write_text("mine")
    out.mkdir()
    (out / "samples.png").symlink_to(mine)
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert mine.read_text() == "mine"
    assert not (out / "samples.png").is_symlink()


def test_files_of_a_run_are_not_for_others_to_write_whatever_the_umask(tmp_path, model):
    before = os.umask(0)
    try:
        folder = tmp_path / "new" / "run"
        assert main(["sample", *model, *GIVEN, "--out", str(folder)]) == 3
    finally:
        os.umask(before)
    for path in [folder, *folder.rglob("*")]:
        assert not path.stat().st_mode & 0o022, path
