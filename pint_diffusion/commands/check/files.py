"""Files: whether ranks can write the folder of a run safely, and all have the same folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pint_diffusion.commands.check.finding import Finding
from pint_diffusion.errors import InputError
from pint_diffusion.memory import amount
from pint_diffusion.runtime.talk import Talk
from pint_diffusion.store.place import nearest, refuse_no_folder

VISIBLE_WITHIN = 3.0
"""Seconds within which every rank must see a file of rank 0."""

SLOW = 1.0
"""Seconds of a write, fsync and rename above which the check warns."""


@dataclass(frozen=True)
class Tried:
    """The result of one rank's attempt to write in its folder.

    Attributes
    ----------
    folder : str
        Absolute path of the folder.
    problem : str
        Why the rank can't write there; empty if it can.
    seconds : float
        Seconds of write, fsync, rename and fsync of the folder.
    unlocked : str
        Why the rank can't lock files there; empty if it can.
    free : int
        Free bytes.
    """

    folder: str
    problem: str = ""
    seconds: float = 0.0
    unlocked: str = ""
    free: int = 0


def files(talk: Talk, out: Path, hosts: Sequence[str], needed: int) -> Iterator[Finding]:
    """Write, rename and lock files in the folder on every rank, and look for rank 0's.

    Parameters
    ----------
    talk : Talk
        Messages between the ranks.
    out : Path
        Folder of a run, which may not exist yet.
    hosts : sequence of str
        Host of each rank.
    needed : int
        Most bytes that a run writes, 0 if not known.
    """
    try:
        refuse_no_folder(out)
        wrong = ""
    except InputError as error:
        wrong = str(error)
    told = talk.gather(wrong)
    if any(told):
        found, _, to_do = next(filter(None, told)).rpartition(": ")
        yield Finding("--out", "fail", found, to_do)
        return
    folder = nearest(out)
    token = talk.gather(secrets.token_hex(4))[0]
    mark = folder / f".pint-check-{token}"
    try:
        if talk.rank == 0:
            with contextlib.suppress(OSError):
                mark.touch()
        tried = talk.gather(attempt(folder, f"{token}-{talk.rank}"))
        seen = True if tried[0].problem else is_seen(mark)
        unseen = [rank for rank, here in enumerate(talk.gather(seen)) if not here]
    finally:
        if talk.rank == 0:
            with contextlib.suppress(OSError):
                mark.unlink()
    yield from judge_files(Path(os.path.abspath(out)), hosts, tried, unseen, needed)


def attempt(folder: Path, name: str) -> Tried:
    """Write, rename and lock a file in a folder as a run does, and delete it."""
    first, second = (folder / f".pint-check-{name}{end}" for end in (".new", ".h5"))
    where = str(folder)
    try:
        start = time.perf_counter()
        for content in (b"old", b"new"):
            with open(first, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(first, second)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        seconds = time.perf_counter() - start
        if second.read_bytes() != b"new":
            return Tried(where, "a renamed file has its old content")
        return Tried(where, "", seconds, try_locks(second), shutil.disk_usage(folder).free)
    except OSError as error:
        return Tried(where, error.strerror or str(error))
    finally:
        for path in (first, second):
            with contextlib.suppress(OSError):
                path.unlink()


def try_locks(path: Path) -> str:
    """Return why the system or HDF5 can't lock a file; empty if both can."""
    import h5py

    try:
        with open(path, "rb") as one, open(path, "rb") as other:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return "a locked file can be locked again"
            except BlockingIOError:
                pass
        with h5py.File(path, "w", locking=True) as file:
            file["one"] = 1
    except OSError as error:
        return str(error)
    return ""


def is_seen(mark: Path) -> bool:
    """Return whether a file appears in time."""
    deadline = time.monotonic() + VISIBLE_WITHIN
    while mark.name not in os.listdir(mark.parent):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def judge_files(
    out: Path, hosts: Sequence[str], tried: Sequence[Tried], unseen: Sequence[int], needed: int
) -> Iterator[Finding]:
    """Judge the attempts of the ranks: the folder itself, then whether all ranks share it."""
    bad = [rank for rank, one in enumerate(tried) if one.problem]
    if bad:
        rank, one = bad[0], tried[bad[0]]
        found = f"rank {rank} on {hosts[rank]} can't write in {one.folder}: {one.problem}"
        yield Finding("--out", "fail", found, "give a folder that every rank can write in")
        return
    first = tried[0]
    # A run makes its own folder; a longer path that is not there is rather mistyped.
    if first.folder not in (str(out), str(out.parent)):
        found = f"{out} does not exist, and would be made in {first.folder}"
        yield Finding("--out", "warn", found, "check the name")
    slowest = max(one.seconds for one in tried)
    free = min(one.free for one in tried)
    level, to_do = "ok", ""
    if needed > free:
        level = "warn"
        to_do = f"a run that takes every iteration writes {amount(needed)}: --keep final"
    elif slowest > SLOW:
        level, to_do = "warn", "write to a faster file system"
    found = (
        f"{first.folder}: write, fsync and rename work, {slowest * 1e3:.1f} ms, {amount(free)} free"
    )
    yield Finding("files", level, found, to_do)  # type: ignore[arg-type]
    unlocked = next(((rank, one) for rank, one in enumerate(tried) if one.unlocked), None)
    if unlocked:
        rank, one = unlocked
        found = f"rank {rank} on {hosts[rank]} can't lock files in {one.folder}: {one.unlocked}"
        to_do = "runs work without; open no file of a run for writing while it is under way"
        yield Finding("file locks", "warn", found, to_do)
    else:
        yield Finding("file locks", "ok", "work, also those of HDF5")
    if unseen:
        rank = unseen[0]
        found = (
            f"rank {rank} on {hosts[rank]}, in {tried[rank].folder}, does not see a file of rank "
            f"0, in {first.folder}"
        )
        to_do = "give the absolute path of a folder on a file system that all hosts share"
        yield Finding("shared folder", "fail", found, to_do)
    elif len(tried) > 1:
        yield Finding("shared folder", "ok", "every rank sees a file of rank 0")
