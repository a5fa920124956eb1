"""The folder of a run, and the files in it while the run is under way."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.errors import InputError, StoreError
from pint_diffusion.numerics.convergence import Outcome
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.world import World
from pint_diffusion.store.lock import LOCK, FolderLock
from pint_diffusion.store.manifest import MANIFEST, Manifest, Writing
from pint_diffusion.store.master import MASTER, Master
from pint_diffusion.store.part import FOLDER
from pint_diffusion.store.reserve import RESERVE, Reserve
from pint_diffusion.store.writer import Writer, events_name

SOME_MORE = 1 << 16
LAST_WORDS = 3.0
"""Seconds that the status of a lost run may take to be written."""

STREAM = "stream"
"""Folder of the answers that were drawn as they arrived."""

OF_A_RUN = (
    MASTER,
    MANIFEST,
    RESERVE,
    f"{FOLDER}/*.h5",
    f"{FOLDER}/*.new",
    "events-*.h5",
    "samples.png",
    f"{STREAM}/*",
    "refinement.png",
    "wavefront.png",
)
"""Files of a run, which --force deletes."""


def clear_folder(folder: Path, force: bool) -> FolderLock:
    """Make the folder of a run ready and lock it; with ``force`` delete the run in it.

    Raises
    ------
    InputError
        If it can't be written, if a job writes there or, without ``force``, if it holds anything.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            lock = undo.enter_context(FolderLock(folder))
            if not force and any(path.name != LOCK for path in folder.iterdir()):
                raise InputError(
                    f"--out {folder} is not empty: give another folder, or --force to overwrite "
                    "the run in it"
                )
            for pattern in OF_A_RUN:
                for old in folder.glob(pattern):
                    old.unlink()
            undo.pop_all()
            return lock
    except OSError as error:
        raise InputError(f"--out {folder} can't be written: {error.strerror}") from None


class RunFolder:
    """What this rank writes of a run; every rank makes one at the same time.

    On leaving, whatever happened, the writing thread ends, so that what was computed can be read.

    Parameters
    ----------
    master : Master
        What the master file says before the first iteration.
    manifest : Manifest
        What is on disk already.
    segment : int
        Which start of the run this is.
    first : int
        Iterations before this one are on disk already.
    keep_all : bool
        Keep the boundary states of every iteration.
    every : float
        Seconds from one iteration that is written to the next; 0 for all.
    world : World
        The processes of the run.
    events : EventLog
        This rank's events.

    Raises
    ------
    InputError
        On every rank, if a file can't be made.
    """

    def __init__(
        self,
        master: Master,
        manifest: Manifest,
        segment: int,
        first: int,
        keep_all: bool,
        every: float,
        world: World,
        events: EventLog,
    ) -> None:
        self._master = master
        self._manifest = manifest
        self._segment = segment
        self._first = first
        self._keep_all = keep_all
        self._every = every
        self._written = time.monotonic()
        self._world = world
        self._answers: dict[int, Tensor] = {}
        self._reserve = Reserve(master.folder)
        world.agree(self._begin)
        columns = range(world.rank, master.columns, world.size)
        self._events = events
        try:
            self._writer = world.agree(lambda: self._open(columns))
        except InputError as error:
            self._say_last(f"failed: {error}")
            raise

    def _begin(self) -> None:
        master, manifest = self._master, self._manifest
        if self._world.rank != 0:
            return
        retires = master.facts["retires"]
        manifest.writing = Writing(self._segment, master.columns, self._world.size, retires)
        try:
            (master.folder / FOLDER).mkdir(exist_ok=True)
            manifest.write()
            master.write()
            self._hold_space()
        except OSError as error:
            self._reserve.give_up()
            raise InputError(f"--out {master.folder} can't be written: {error.strerror}") from None

    def _open(self, columns: range) -> Writer:
        folder = self._master.folder
        if not (folder / MASTER).is_file():
            raise InputError(
                f"--out {folder} is not rank 0's folder here, on {self._world.host}: give "
                "the absolute path of a folder on a file system that all ranks share"
            )
        if not os.access(folder / FOLDER, os.W_OK):
            raise InputError(f"--out {folder} can't be written on {self._world.host}")
        return Writer(
            folder,
            self._segment,
            self._world.rank,
            columns,
            self._master.facts["retires"],
            self._events,
            self._first,
            not self._every,
        )

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The folder."""
        return self._master.folder

    @property
    def reached(self) -> int:
        """Newest complete iteration, -1 if there is none. Rank 0 only."""
        return max(self._manifest.rows, default=-1)

    def check(self) -> None:
        """See whether this rank could write so far.

        Raises
        ------
        StoreError
            If not.
        """
        self._writer.check()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def close_all(self) -> None:
        """Write what is left, on every rank at the same time.

        Raises
        ------
        StoreError
            On every rank, if a file of one rank could not be written.
        """
        self._world.agree(self.close)
        self._name_events()

    def record(self, n: int, k: int, state: Tensor | None) -> None:
        """Keep u_n^k, (1 + H, S, *shape); None: as in iteration k - 1."""
        if n == self._master.columns:
            self._answers[k] = self._answers[k - 1] if state is None else state[0]
        self._writer.record(n, k, state)

    def decided(self, k: int, write: bool) -> None:
        """Take note whether to write iteration ``k``; on every rank, if not all are written."""
        self._writer.decided(k, write)

    def iteration_done(
        self,
        k: int,
        moved: NDArray[Any] | None,
        show: Callable[[int, NDArray[Any]], None] | None = None,
    ) -> bool | None:
        """Write master and manifest anew: u_M^k is there, and moved by (S,). Rank 0 only.

        Then ``show(k, u_M^k)``, in the thread that writes. Returns whether every rank is to write
        iteration ``k``, None if they do so anyway. Nothing is written but every so many seconds.
        """
        answer = self._answers[k]
        self._answers.pop(k - 1, None)

        def update() -> None:
            master = self._master
            if moved is not None:
                master.change.append(moved)
            master.iterations = master.facts["iterations"] = k
            master.samples = answer.cpu().numpy()
            if write is not False:
                self._write()
                self._hold_space()
            if show is not None:
                show(k, master.samples)

        write = self._due() if self._every else None
        self._writer.do(update)
        return write

    def _due(self) -> bool:
        now = time.monotonic()
        due = now - self._written >= self._every
        if due:
            self._written = now
        return due

    def end(self, status: str) -> None:
        """Close every rank's files, and let the master say how the run ended; on every rank."""
        with contextlib.suppress(StoreError):  # one reason is enough
            self.close()
        self._world.barrier()
        self._name_events()
        self._say_last(status)

    def _say_last(self, status: str) -> None:
        if self._world.rank == 0:
            self._master.facts["status"] = status
            with contextlib.suppress(OSError):
                self._write_last()

    def _name_events(self) -> None:
        """Let rank 0 know the event files that were written."""
        for rank, rows in enumerate(self._world.gather(self._writer.event_rows)):
            if rows:
                self._master.events[events_name(self._segment, rank)] = rows

    def lost(self, cause: str) -> None:
        """Let the master say that a rank was lost, within seconds; from any thread of any rank."""
        if self._world.rank != 0:
            return
        done = threading.Event()

        def say() -> None:
            self._master.facts["status"] = f"failed: {cause}"
            self._write_last()
            done.set()

        with contextlib.suppress(StoreError):
            self._writer.do(say)
            done.wait(LAST_WORDS)

    def finish(self, outcome: Outcome, figures: dict[str, Any]) -> None:
        """Write the master for good. Rank 0 only, after `close_all`.

        Raises
        ------
        StoreError
            If it could not be written.
        """
        master = self._master
        master.sequential = figures.pop("sequential", None)
        master.facts |= figures | {
            "status": "finished" if outcome.converged else "not converged",
            "iterations": outcome.iterations,
            "converged": outcome.converged,
            "exact": outcome.exact,
        }
        master.iterations = outcome.iterations
        master.change = list(outcome.changes)
        master.stopped_at = outcome.stopped_at
        try:
            self._write_last()
        except OSError as error:
            raise StoreError(f"{self.path} could not be written: {error.strerror}") from None

    def _write_last(self) -> None:
        self._reserve.give_up()
        self._write()

    def _write(self) -> None:
        master, manifest = self._master, self._manifest
        manifest.extend()
        manifest.changes = [row.tolist() for row in master.change]
        manifest.write()
        if self._keep_all:
            master.rows = manifest.rows
        else:
            manifest.drop_old()
        master.write()

    def _hold_space(self) -> None:
        """Hold as much space as the last master and manifest may need."""
        master = self._master
        answer = math.prod(master.state) * np.dtype(master.dtype).itemsize
        files = sum((self.path / name).stat().st_size for name in (MASTER, MANIFEST))
        self._reserve.hold(2 * (files + answer) + SOME_MORE)
