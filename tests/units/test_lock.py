"""One job at a time writes in the folder of a run."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.launch import launch, ranks_of, start

from pint_diffusion.commands.cli import main
from pint_diffusion.errors import InputError
from pint_diffusion.store import lock
from pint_diffusion.store.lock import FolderLock
from pint_diffusion.store.master import read_run
from pint_diffusion.store.names import LOCK

EMULATED = Path(__file__).parents[2] / "jobs" / "emulated.py"
RUN = ["--model", f"{EMULATED}:factory", "--steps", 32, "--slices", 8, "--samples", 2]
RUN += ["--batching", "off"]


@pytest.mark.parametrize(("ranks", "others"), [(1, 1), (4, 1), (1, 2)])
def test_a_folder_that_a_job_writes_is_refused_to_others_and_the_job_goes_on(
    tmp_path, capfd, monkeypatch, ranks, others
):
    monkeypatch.setenv("EMULATED_MS", "0")
    folder, whole = tmp_path / "run", tmp_path / "whole"
    job = start("sample", *RUN, "--out", folder, ranks=ranks, environment={"EMULATED_MS": "300"})
    deadline = time.monotonic() + 60
    while not list(folder.glob("parts/*.h5")):
        assert time.monotonic() < deadline, "the run did not begin"
        assert job.poll() is None, job.communicate()
        time.sleep(0.02)
    for given in (["resume", folder], ["sample", *RUN, "--out", folder, "--force"]):
        if others == 1:
            code, said = main([str(word) for word in given]), capfd.readouterr().err
        else:
            ended = launch(*given, ranks=others)
            code, said = ended.code, ended.err
        assert job.poll() is None, "the job is to be under way still"
        errors = [line for line in said.splitlines() if "error" in line]
        assert code == 2, said
        assert len(errors) == 1
        assert f"{folder} is being written by process " in errors[0]
    os.kill(ranks_of(folder)[-1], signal.SIGTERM)
    out, err = job.communicate(timeout=30)
    assert job.returncode == 75, out + err
    assert not (folder / LOCK).exists()
    assert main(["resume", str(folder)]) == 0
    assert main([str(word) for word in ("sample", *RUN, "--out", whole)]) == 0
    assert np.array_equal(read_run(folder).boundary, read_run(whole).boundary)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "SILENCE", 0.4)


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


HERE, ELSEWHERE = lock._here(), "elsewhere 0-1-2"


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("host", [HERE, ELSEWHERE, ""], ids=["here", "elsewhere", "torn"])
def test_what_a_dead_job_left_stops_nobody(tmp_path, monkeypatch, quick, locks, host):
    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / LOCK).write_text(f"{host}\nprocess 1 on {host}\n")
    with FolderLock(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("locks", "host"), [(True, ELSEWHERE), (False, HERE), (False, ELSEWHERE)])
def test_a_job_that_beats_is_there_where_its_lock_can_not_be_seen(
    tmp_path, monkeypatch, quick, locks, host
):
    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    path = tmp_path / LOCK
    path.write_text(f"{host}\nprocess 1 on a host\n")
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            os.utime(path)

    beats = threading.Thread(target=beat)
    beats.start()
    try:
        with pytest.raises(InputError, match="is being written by process 1 on a host"):
            FolderLock(tmp_path)
    finally:
        ended.set()
        beats.join()


@pytest.mark.parametrize("locks", [True, False])
def test_of_two_at_once_one_is_refused_and_may_come_when_the_other_is_gone(
    tmp_path, monkeypatch, quick, locks
):
    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    with FolderLock(tmp_path):
        before = (tmp_path / LOCK).read_text()
        with pytest.raises(InputError, match=f"process {os.getpid()} on"):
            FolderLock(tmp_path)
        assert (tmp_path / LOCK).read_text() == before
    with FolderLock(tmp_path):
        pass


def test_a_lock_on_a_file_that_was_deleted_meanwhile_is_none(tmp_path, monkeypatch):
    """Who opens the file just before its owner deletes it must not go on with that one."""
    seen = []

    def flock(file, how):
        seen.append(os.fstat(file.fileno()).st_ino)
        if len(seen) == 1:
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with FolderLock(tmp_path):
        assert len(seen) == 2
        assert (tmp_path / LOCK).stat().st_ino == seen[-1]


def test_a_folder_that_can_not_be_written_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="can't be written: No such file"):
        FolderLock(tmp_path / "nowhere")
