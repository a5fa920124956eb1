"""What a rank writes while it computes, in a thread of its own."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, Full, Queue

import h5py
import torch
from torch import Tensor

from pint_diffusion.errors import StoreError, reason
from pint_diffusion.runtime.copies import HostCopy, SideStream, bind_thread
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.explain import explain
from pint_diffusion.store.manifest import GENERATIONS
from pint_diffusion.store.names import PARTS, events_name
from pint_diffusion.store.part import RUN, seal, write_part

REST = 4
"""A job that can wait begins no earlier after the one before than this many times its length."""

QUEUE = 8
"""Jobs that may wait. Each holds states: without a bound a slow disk would fill the memory."""

LOOK = 0.2
"""Seconds after which a thread that waits for a full queue looks whether writing has failed."""


class Writer:
    """Writes the boundary states of one rank, an iteration at a time.

    The methods are for the thread that computes, but for `later`, and for `do` with a time-out.

    Parameters
    ----------
    folder : Directory
        Folder of the run.
    run : str
        Identity of the run.
    segment : int
        Which start of the run this is.
    rank : int
        This rank.
    columns : sequence of int
        Numbers n of the columns that it writes.
    retires : bool
        Columns n < k of iteration k are not written again.
    events : EventLog
        Written too, at the end.
    first : int
        Iterations before this one are on disk already.
    every : bool
        Write every iteration. Else those that `decided` names, and at the end what is still
        known: so the newest complete one is there however the run ends, if it is not killed.
    device : torch.device
        Where states live.
    """

    def __init__(
        self,
        folder: Directory,
        run: str,
        segment: int,
        rank: int,
        columns: Sequence[int],
        retires: bool,
        events: EventLog,
        first: int,
        every: bool,
        device: torch.device,
    ) -> None:
        self._folder = folder
        self._parts = folder.below(PARTS)
        self._run = run
        self._segment = segment
        self._rank = rank
        self._events = events
        self._first = first
        self._every = every
        self._columns = sorted(columns)
        self._retires = retires
        self._device = device
        self._side = SideStream(device)
        self._rows: dict[tuple[int, str], dict[int, Tensor | HostCopy]] = {}
        self._wanted: set[int] = set()
        self._latest: dict[int, Tensor | HostCopy] = {}
        self.event_rows = 0  # of the event file, once it is written
        self._writing = "files"
        self._error: BaseException | None = None
        self._jobs: Queue[Callable[[], None] | None] = Queue(QUEUE)
        self._rested_at = 0.0
        self._late: Callable[[], None] | None = None  # touched by the writing thread alone
        self._late_at = 0.0
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    @property
    def rested(self) -> bool:
        """Whether all is written, and writing has taken at most a fifth of the time."""
        return self._jobs.unfinished_tasks == 0 and time.monotonic() >= self._rested_at

    def to_host(self, state: Tensor) -> HostCopy:
        """Begin to copy a state to the host; a job may `HostCopy.wait` for it."""
        return self._side.to_host(state)

    def record(self, n: int, k: int, state: Tensor | None) -> None:
        """Write u_n^k, (1 + H, S, *shape), once the states of iteration k of this rank are there.

        None repeats iteration k - 1. A state that is not to be written yet stays on its device.
        """
        value: Tensor | HostCopy = self._latest[n] if state is None else state
        if self._every and isinstance(value, Tensor):
            value = self.to_host(value)
        self._latest[n] = value
        if k < self._first:
            return
        group = "a" if n in self._columns else "b"
        self._rows.setdefault((k, group), {})[n] = value
        if self._every or k in self._wanted:
            self._hand_over(k, group)

    def decided(self, k: int, write: bool) -> None:
        """Take note whether to write iteration ``k``, as soon as this rank has all of it.

        Older ones that were not written are forgotten, but for one: ranks may differ by one in
        what they have when the run is interrupted.
        """
        if write:
            self._wanted.add(k)
            self._hand_over(k, "a")
            self._hand_over(k, "b")
        for old in [row for row in self._rows if row[0] <= k - GENERATIONS]:
            if old[0] not in self._wanted:
                del self._rows[old]

    def do(self, job: Callable[[], None], timeout: float | None = None) -> None:
        """Run a job in the writing thread, after those before it.

        The disk is waited for only if `QUEUE` jobs wait already: then it is slower than the run,
        and every state that waited on would take memory until there is none.

        Parameters
        ----------
        job : callable
            The job.
        timeout : float, optional
            Seconds after which a full queue is no longer waited for, and the job is dropped.

        Raises
        ------
        StoreError
            If an earlier job could not be done (a full disk, say).
        """
        self._queue(job, timeout)

    def later(self, job: Callable[[], None]) -> None:
        """Run a job once the one before it is long enough ago; the newest one replaces others.

        For jobs of the writing thread alone. What still waits at the end is run then.
        """
        self._late = job

    def check(self) -> None:
        """See whether all could be written so far.

        Raises
        ------
        StoreError
            If not.
        """
        if self._error is not None:
            raise self._sentence(self._error)

    def close(self) -> None:
        """Write what is left; may be called again.

        Raises
        ------
        StoreError
            If anything could not be written; once.
        """
        if self._thread.is_alive():
            with contextlib.suppress(StoreError):  # raised below
                for row in sorted(self._rows):
                    self._hand_over(*row)
                self._queue(None)
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise self._sentence(error) from error

    def _queue(self, job: Callable[[], None] | None, timeout: float | None = None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while deadline is None or time.monotonic() < deadline:
            self.check()  # after a failure nobody empties the queue
            try:
                self._jobs.put(job, timeout=LOOK)
                return
            except Full:
                continue

    def _hand_over(self, k: int, group: str) -> None:
        """Hand this rank's part of an iteration to the writing thread, if all of it is there."""
        row = self._rows.get((k, group), {})
        whole = {n for n in self._columns if n >= k or not self._retires}
        if row and (group == "b" or row.keys() == whole):
            del self._rows[k, group]
            copies = {
                n: self.to_host(value) if isinstance(value, Tensor) else value
                for n, value in row.items()
            }
            self.do(lambda: self._write_row(k, group, copies))

    # ---- the writing thread ------------------------------------------------------------------

    def _write(self) -> None:
        try:
            bind_thread(self._device)
            while (job := self._next()) is not None:
                begun = time.monotonic()
                job()
                length = time.monotonic() - begun
                self._rested_at = max(self._rested_at, begun) + (1 + REST) * length
                self._jobs.task_done()
            if self._late is not None:
                self._late()
            name = events_name(self._segment, self._rank)
            self.event_rows = write_events(self._folder, name, self._run, self._events)
        except BaseException as error:
            self._error = error

    def _next(self) -> Callable[[], None] | None:
        """Wait for a job; run what was left for `later` while there is none, or when it is due."""
        while self._late is not None:
            left = self._late_at - time.monotonic()
            if left > 0:
                with contextlib.suppress(Empty):
                    return self._jobs.get(timeout=left)
            job, self._late = self._late, None
            begun = time.monotonic()
            job()
            self._late_at = time.monotonic() + REST * (time.monotonic() - begun)
        return self._jobs.get()

    def _write_row(self, k: int, group: str, row: dict[int, HostCopy]) -> None:
        of = f"slices {', '.join(map(str, sorted(row)))}" if group == "a" else "the answer"
        self._writing = f"iteration {k} of {of}"
        states = {n: copy.wait().numpy() for n, copy in row.items()}
        write_part(self._parts, self._run, self._segment, k, self._rank, group, states)
        self._writing = "files"

    def _sentence(self, error: BaseException) -> StoreError:
        why = error.strerror if isinstance(error, OSError) else reason(error)
        where = self._folder.path / (getattr(error, "filename", None) or "")
        return StoreError(f"{self._writing} could not be written to {where}: {why}")


def write_events(folder: Directory, name: str, run: str, events: EventLog) -> int:
    """Write the events of a rank, as a whole; return how many there are."""
    image = io.BytesIO()
    table = events.table()
    with h5py.File(image, "w") as file:
        file.attrs[RUN] = run
        file["events"] = table
        explain(file, "events")
    content = image.getvalue()
    folder.replace(name, content + seal(content))
    return len(table)
