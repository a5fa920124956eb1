"""What a rank writes while it computes, in a thread of its own."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.errors import StoreError, reason
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.store.manifest import GENERATIONS
from pint_diffusion.store.part import replace_file, seal, write_part


class Writer:
    """Writes the boundary states of one rank, an iteration at a time.

    Parameters
    ----------
    folder : Path
        Folder of the run.
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
    """

    def __init__(
        self,
        folder: Path,
        segment: int,
        rank: int,
        columns: Sequence[int],
        retires: bool,
        events: EventLog,
        first: int,
        every: bool,
    ) -> None:
        self._folder = folder
        self._segment = segment
        self._rank = rank
        self._events = events
        self._first = first
        self._every = every
        self._columns = sorted(columns)
        self._retires = retires
        self._rows: dict[tuple[int, str], dict[int, NDArray[np.floating]]] = {}
        self._wanted: set[int] = set()
        self._latest: dict[int, NDArray[np.floating]] = {}
        self.event_rows = 0  # of the event file, once it is written
        self._writing = "files"
        self._error: BaseException | None = None
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    def record(self, n: int, k: int, state: Tensor | None) -> None:
        """Write u_n^k, (1 + H, S, *shape), once the states of iteration k of this rank are there.

        None repeats iteration k - 1. The disk is not waited for.
        """
        values = None if state is None else state.cpu().numpy()
        self.do(lambda: self._put(n, k, values))

    def decided(self, k: int, write: bool) -> None:
        """Take note whether to write iteration ``k``, as soon as this rank has all of it.

        Older ones that were not written are forgotten, but for one: ranks may differ by one in
        what they have when the run is interrupted.
        """
        self.do(lambda: self._decide(k, write))

    def do(self, job: Callable[[], None]) -> None:
        """Run a job in the writing thread, after those before it.

        Raises
        ------
        StoreError
            If an earlier job could not be done (a full disk, say).
        """
        self.check()
        self._jobs.put(job)

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
        self._jobs.put(None)
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise self._sentence(error) from error

    def _sentence(self, error: BaseException) -> StoreError:
        why = error.strerror if isinstance(error, OSError) else reason(error)
        where = getattr(error, "filename", None) or self._folder
        return StoreError(f"{self._writing} could not be written to {where}: {why}")

    def _write(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
            for row in sorted(self._rows):
                self._write_row(*row)
            path = self._folder / events_name(self._segment, self._rank)
            self.event_rows = write_events(path, self._events)
        except BaseException as error:
            self._error = error

    def _put(self, n: int, k: int, values: NDArray[np.floating] | None) -> None:
        values = self._latest[n] if values is None else values
        self._latest[n] = values
        if k < self._first:
            return
        group = "a" if n in self._columns else "b"
        self._rows.setdefault((k, group), {})[n] = values
        if self._every or k in self._wanted:
            self._write_row(k, group)

    def _decide(self, k: int, write: bool) -> None:
        if write:
            self._wanted.add(k)
            self._write_row(k, "a")
            self._write_row(k, "b")
        for old in [row for row in self._rows if row[0] <= k - GENERATIONS]:
            if old[0] not in self._wanted:
                del self._rows[old]

    def _write_row(self, k: int, group: str) -> None:
        """Write this rank's part of an iteration, if all of it is there."""
        row = self._rows.get((k, group), {})
        whole = {n for n in self._columns if n >= k or not self._retires}
        if row and (group == "b" or row.keys() == whole):
            del self._rows[k, group]
            of = f"slices {', '.join(map(str, sorted(row)))}" if group == "a" else "the answer"
            self._writing = f"iteration {k} of {of}"
            write_part(self._folder, self._segment, k, self._rank, group, row)
            self._writing = "files"


def events_name(segment: int, rank: int) -> str:
    """File name of what a rank did in a segment, beside the master."""
    return f"events-{segment:02d}-{rank:04d}.h5"


def write_events(path: Path, events: EventLog) -> int:
    """Write the events of a rank, as a whole; return how many there are."""
    image = io.BytesIO()
    table = events.table()
    with h5py.File(image, "w") as file:
        file["events"] = table
    content = image.getvalue()
    replace_file(path, content + seal(content))
    return len(table)
