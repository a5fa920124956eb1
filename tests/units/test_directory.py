"""A folder that is held: what is written there follows no link, and an exchange is noticed."""

from __future__ import annotations

import os
import stat

import pytest

from pint_diffusion.store.directory import Directory
from pint_diffusion.store.reserve import Reserve


@pytest.fixture
def here(tmp_path):
    return Directory.made(tmp_path / "here")


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


def symbolic(mine, at):
    at.symlink_to(mine)


def hard(mine, at):
    os.link(mine, at)


def pipe(mine, at):
    os.mkfifo(at)


@pytest.mark.parametrize("put", [symbolic, hard, pipe])
@pytest.mark.parametrize("name", ["file", "file.new"])
def test_a_file_is_replaced_and_what_was_in_its_place_is_left_alone(here, mine, put, name):
    put(mine, here.path / name)
    here.replace("file", b"content")
    assert here.read("file") == b"content"
    assert here.names() == ["file"]
    assert stat.S_ISREG(os.lstat(here.path / "file").st_mode)


@pytest.mark.parametrize("put", [symbolic, hard, pipe])
def test_the_reserve_holds_a_file_of_its_own_and_grows_in_it(here, mine, put):
    put(mine, here.path / "reserve")
    reserve = Reserve(here)
    for size in (1000, 50000, 2000):
        reserve.hold(size)
    assert here.size("reserve") == 50000
    reserve.give_up()
    assert here.names() == []


def test_a_file_that_can_not_be_written_leaves_the_old_one(here, monkeypatch):
    here.replace("file", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            here.replace("file", b"new")
    assert here.read("file") == b"old"
    assert here.names() == ["file"]


def test_a_pipe_is_no_file_to_read_and_is_not_waited_for(here):
    os.mkfifo(here.path / "pipe")
    with pytest.raises(OSError, match="it is no file"):
        here.read("pipe")


@pytest.mark.parametrize("make", [False, True])
def test_a_link_is_no_folder_to_go_down_to(here, tmp_path, make):
    (tmp_path / "other").mkdir()
    (here.path / "inside").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="Not a directory"):
        here.below("inside", make)


def test_deleting_a_link_leaves_what_it_leads_to(here, mine):
    symbolic(mine, here.path / "link")
    here.delete("link")
    here.delete("link")  # there is none any more
    assert here.names() == []


def test_what_is_written_stays_in_a_folder_that_was_moved_and_that_is_noticed(here, tmp_path):
    inside = here.below("inside", make=True)
    inside.verify()
    here.path.rename(tmp_path / "moved")
    (tmp_path / "other" / "inside").mkdir(parents=True)
    here.path.symlink_to(tmp_path / "other")
    inside.replace("file", b"content")
    assert (tmp_path / "moved" / "inside" / "file").read_bytes() == b"content"
    assert list((tmp_path / "other" / "inside").iterdir()) == []
    for folder in (here, inside):
        with pytest.raises(OSError, match="moved or exchanged"):
            folder.verify()
    here.path.unlink()
    with pytest.raises(OSError, match="moved or exchanged"):
        inside.verify()


def test_an_exchanged_folder_inside_is_noticed(here):
    inside = here.below("inside", make=True)
    (here.path / "inside").rename(here.path / "old")
    (here.path / "inside").mkdir()
    here.verify()
    with pytest.raises(OSError, match="moved or exchanged"):
        inside.verify()


@pytest.mark.parametrize("mask", [0, 0o077])
def test_what_is_made_is_for_nobody_else_to_write(tmp_path, mask):
    before = os.umask(mask)
    try:
        here = Directory.made(tmp_path / "above" / "here")
        here.below("inside", make=True).replace("file", b"")
    finally:
        os.umask(before)
    assert here.strange() is None
    for path in [here.path, *here.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


def test_descriptors_are_given_back(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        here = Directory.made(tmp_path)
        inside = here.below("inside", make=True)
        reserve = Reserve(here)
        reserve.hold(10)
        reserve.give_up()
        inside.close()
    del here, inside, reserve
    assert len(os.listdir("/proc/self/fd")) == before
