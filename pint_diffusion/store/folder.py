"""The folder of a run, and the files in it while the run is under way."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.build.from_settings import settings_of
from pint_diffusion.build.plan import Plan
from pint_diffusion.errors import InputError, PintError, StoreError
from pint_diffusion.methods.problem import Restart
from pint_diffusion.output import Ended, Output
from pint_diffusion.result import Run
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.runtime.world import World
from pint_diffusion.store.begin import same_folder, take
from pint_diffusion.store.description import describe_run, figures
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.manifest import Writing
from pint_diffusion.store.names import MANIFEST, MASTER, PARTS, events_name
from pint_diffusion.store.part import RUN
from pint_diffusion.store.reserve import Reserve
from pint_diffusion.store.writer import Writer

SOME_MORE = 1 << 16
LAST_WORDS = 3.0
"""Seconds that the status of a lost run may take to be written."""


class Files(Output):
    """The folder of a run: what every rank computed, and a master file that joins it.

    Parameters
    ----------
    folder : path
        Where; on a file system that all ranks share.
    force : bool
        Overwrite the run that is in the folder.
    keep : {"boundary", "final"}
        Keep the boundary states of every iteration, or of the newest one, to resume from.
    checkpoint_every : float, optional
        Seconds from one iteration that is written to the next, with ``keep="final"``; 0 for all.
        If not given, all are written; but of a method in rounds, which has no use for old ones, as
        many as take a fifth of the time.
    resume : bool
        Go on with the run that is in the folder.
    config : str, optional
        The settings of the run as YAML; made of its objects if not given.

    Raises
    ------
    InputError
        If an option is not allowed. On every rank of a run that begins: if the folder can't be
        written, is in use or not empty, or holds another run than the one to be resumed.
    StoreError
        On every rank of a run that ends, if a file of one rank could not be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        force: bool = False,
        keep: Literal["boundary", "final"] = "boundary",
        checkpoint_every: float | None = None,
        resume: bool = False,
        config: str | None = None,
    ) -> None:
        if keep not in ("boundary", "final"):
            raise InputError(f"`keep` is {keep!r}, but must be 'boundary' or 'final'")
        if not 0 <= (checkpoint_every or 0) < math.inf:
            raise InputError(f"`checkpoint_every` is {checkpoint_every}, but must be 0 or more")
        if checkpoint_every and keep == "boundary":
            raise InputError(
                f"`checkpoint_every` {checkpoint_every:g} leaves iterations out, so it needs "
                "`keep` final"
            )
        self.path = Path(folder)
        self.directory: Directory  # once it is open
        self._force = force
        self._keep = keep
        self._every = checkpoint_every
        self._resume = resume
        self._config = config
        self._written = time.monotonic()
        self._held = contextlib.ExitStack()
        self._told: tuple[int, Tensor] | None = None
        self._changes: list[NDArray[np.float64]] = []

    def open(self, plan: Plan, world: World, events: EventLog) -> Restart | None:
        """Lock the folder, find where to resume, and write what is known before the clock."""
        self._world, self._events = world, events
        identity = plan.fingerprint if world.rank == 0 else ""
        try:
            given = self.path, self._force, self._resume, plan, identity, world
            begun = take(*given, self._held)
            self._run, self._segment, restart = begun.run, begun.segment, begun.restart
            if begun.directory is not None and begun.manifest is not None:  # rank 0
                self.directory, self._manifest = begun.directory, begun.manifest
            config = self._config or settings_of(plan.asked).to_yaml()
            master = self._master = describe_run(plan, world, config)
            master.facts |= {
                RUN: self._run,
                "fingerprint": identity,
                "segment": self._segment,
                "resumed_after": restart.k if restart else -1,
            }
            master.change = list(restart.changes[:-1]) if restart else []
            self._first = restart.k + 1 if restart else 0
            self._keep_all = self._keep == "boundary" and plan.method.retires
            by_default = self._every is None and not plan.method.retires
            self._chooses = bool(self._every) or by_default
            self._device, self._problem = plan.evaluators[0].device, plan.problem
            world.agree(self._begin)
            columns = range(world.rank, master.columns, world.size)
            try:
                self._writer = world.agree(lambda: self._open(columns))
            except InputError as error:
                self._say_last(f"failed: {error}")
                raise
        except BaseException:
            self._held.close()
            raise
        return restart

    def _begin(self) -> None:
        if self._world.rank != 0:
            return
        master, manifest = self._master, self._manifest
        retires = master.facts["retires"]
        manifest.writing = Writing(self._segment, master.columns, self._world.size, retires)
        self._reserve = Reserve(self.directory)
        try:
            self._parts = self.directory.below(PARTS, make=True)
            manifest.write()
            master.write(self.directory)
            self._hold_space()
        except OSError as error:
            self._reserve.give_up()
            raise InputError(f"`out` {self.path} can't be written: {error.strerror}") from None

    def _open(self, columns: range) -> Writer:
        if self._world.rank != 0:
            self.directory = same_folder(self.path, self._run, self._world)
        return Writer(
            self.directory,
            self._run,
            self._segment,
            self._world.rank,
            columns,
            self._master.facts["retires"],
            self._events,
            self._first,
            not self._chooses,
            self._device,
        )

    @property
    def reached(self) -> int:
        """Newest complete iteration, -1 if there is none. Rank 0 only."""
        return max(self._manifest.rows if self._world.rank == 0 else (), default=-1)

    def check(self) -> None:
        """See whether this rank could write so far."""
        self._writer.check()

    def state(self, n: int, k: int, state: Tensor | None) -> None:
        """Write column ``n`` of iteration ``k`` with the others of this rank."""
        self._writer.record(n, k, state)

    def _is_last(self, k: int) -> bool:
        """Whether round ``k`` has the answer: what follows, as --verify, may be killed."""
        there = self._changes and (self._changes[-1] >= self._problem.grid.steps).all()
        return bool(there) or k >= self._problem.max_iterations

    def answer(self, k: int, answer: Tensor, change: NDArray[np.float64] | None) -> None:
        """Write master and manifest anew, but between two iterations that are written."""
        self._told = k, answer
        if change is not None:
            self._changes.append(change)
        if not self._chooses:
            self._writer.do(self._news(lambda: self._writer.later(self._write_all)))

    def wants(self, k: int) -> bool | None:
        """Return whether every rank is to write iteration ``k``; None if they do so anyway."""
        return self._due(k) if self._chooses else None

    def decided(self, k: int, wanted: bool) -> None:
        """Write iteration ``k``, or forget it."""
        if self._chooses:
            self._writer.decided(k, wanted)
            if wanted and self._world.rank == 0:
                self._writer.do(self._news(self._write_all))

    def _due(self, k: int) -> bool:
        if self._every is None:
            return self._is_last(k) or self._writer.rested
        now = time.monotonic()
        due = now - self._written >= self._every
        if due:
            self._written = now
        return due

    def _news(self, then: Callable[[], None] = lambda: None) -> Callable[[], None]:
        """Return a job that lets the master know what was told since the last one, and ``then``."""
        master, told, changes = self._master, self._told, self._changes
        self._told, self._changes = None, []
        k, answer = told if told else (-1, None)
        copy = None if answer is None else self._writer.to_host(answer)

        def update() -> None:
            master.change += changes
            if copy is not None:
                master.iterations = master.facts["iterations"] = k
                master.samples = copy.wait().numpy()
            then()

        return update

    def close(self, ended: Ended) -> None:
        """Write what is left and say how the run ended, on every rank at the same time."""
        try:
            if ended.run is not None:
                self._finish(ended.status, ended.run)
                return
            with contextlib.suppress(StoreError):  # one reason is enough
                self._writer.close()
            self._news()()
            if ended.agreed:
                self._world.barrier()
                self._name_events()
                self._say_last(ended.status)
        finally:
            self._held.close()

    def _finish(self, status: str, run: Run) -> None:
        try:
            self._world.agree(self._writer.close)
            self._news()()
            self._name_events()
            self._world.agree(lambda: self._write_result(status, run))
        except PintError as error:
            self._world.barrier()
            self._name_events()
            self._say_last(f"failed: {error}")
            raise

    def _say_last(self, status: str) -> None:
        if self._world.rank == 0:
            self._master.facts["status"] = status
            try:
                self._write_last()
            except OSError:  # of the parts, say; the status at least
                with contextlib.suppress(OSError):
                    self._master.write(self.directory)

    def _name_events(self) -> None:
        """Let rank 0 know the event files that were written."""
        for rank, rows in enumerate(self._world.gather(self._writer.event_rows)):
            if rows:
                self._master.events[events_name(self._segment, rank)] = rows

    def lost(self, cause: str, told_by: int | None) -> None:
        """Let the master say that a rank was lost, within seconds; from any thread of any rank."""
        if self._world.rank != 0:
            return
        done = threading.Event()

        def say() -> None:
            self._master.facts["status"] = f"failed: {cause}"
            self._write_last()
            done.set()

        with contextlib.suppress(StoreError):
            self._writer.do(say, LAST_WORDS)
            done.wait(LAST_WORDS)

    def _write_result(self, status: str, run: Run) -> None:
        if self._world.rank != 0:
            return
        master, outcome = self._master, run.outcome
        if run.sequential is not None:
            master.sequential = run.sequential.cpu().numpy()
        master.facts |= figures(run) | {"status": status}
        master.iterations = outcome.iterations
        master.change = list(outcome.changes)
        master.stopped_at = outcome.stopped_at
        try:
            self._parts.verify()
            self._write_last()
        except OSError as error:
            raise StoreError(f"{self.path} could not be written: {error.strerror}") from None

    def _write_last(self) -> None:
        self._reserve.give_up()
        self._write()

    def _write_all(self) -> None:
        self._write()
        self._hold_space()

    def _write(self) -> None:
        master, manifest = self._master, self._manifest
        manifest.extend()
        manifest.changes = [row.tolist() for row in master.change]
        old = [] if self._keep_all else manifest.forget_old()
        manifest.write()
        manifest.delete(old)
        if self._keep_all:
            master.rows = manifest.rows
        master.write(self.directory)

    def _hold_space(self) -> None:
        """Hold as much space as the last master and manifest may need."""
        master = self._master
        answer = math.prod(master.state) * np.dtype(master.dtype).itemsize
        files = sum(map(self.directory.size, (MASTER, MANIFEST)))
        self._reserve.hold(2 * (files + answer) + SOME_MORE)
