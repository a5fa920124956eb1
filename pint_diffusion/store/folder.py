"""The folder of a run, and the files in it while the run is under way."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from pint_diffusion.convergence import Outcome
from pint_diffusion.errors import InputError, StoreError
from pint_diffusion.runtime.events import EventLog, Tally
from pint_diffusion.runtime.world import World
from pint_diffusion.store.master import MASTER, Master
from pint_diffusion.store.shard import ShardWriter


def clear_folder(folder: Path, force: bool) -> None:
    """Make the folder of a run ready; with ``force`` delete the files of the run in it.

    Raises
    ------
    InputError
        If it can't be written or, without ``force``, holds anything.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not force and any(folder.iterdir()):
            raise InputError(
                f"--out {folder} is not empty: give another folder, or --force to overwrite "
                "the run in it"
            )
        for pattern in (MASTER, "shard-*.h5", "samples.png", "refinement.png", "wavefront.png"):
            for old in folder.glob(pattern):
                old.unlink()
        probe = folder / f".write-test-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {folder} can't be written: {error.strerror}") from None


class RunFolder:
    """The shard of this rank, on rank 0 the master too; every rank makes one at the same time.

    On leaving, whatever happened, the shard is closed, so that what was computed can be read.

    Parameters
    ----------
    master : Master
        What the master file says before the first iteration.
    world : World
        The processes of the run.
    events : EventLog
        This rank's events.

    Raises
    ------
    InputError
        On every rank, if a file can't be made.
    """

    def __init__(self, master: Master, world: World, events: EventLog) -> None:
        self._master = master
        self._world = world
        self._events = events
        self._answers: dict[int, Tensor] = {}
        if world.rank == 0:
            master.write()
        world.barrier()
        self._shard = world.agree(self._open)

    def _open(self) -> ShardWriter:
        master = self._master
        if not (master.folder / MASTER).is_file():
            raise InputError(
                f"--out {master.folder} is not rank 0's folder here, on {self._world.host}: give "
                "the absolute path of a folder on a file system that all ranks share"
            )
        try:
            kept = master.shards[self._world.rank]
            return ShardWriter(
                master.folder, kept, master.limit, master.state, master.dtype, self._events
            )
        except (OSError, ValueError) as error:
            raise InputError(f"--out {master.folder} can't be written: {error}") from None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left to this rank's shard and close it."""
        self._shard.close()

    def record(self, n: int, k: int, state: Tensor | None) -> None:
        """Keep u_n^k, (S, *shape); None: as in iteration k - 1."""
        if n == self._master.grid.slices:
            self._answers[k] = self._answers[k - 1] if state is None else state
        self._shard.record(n, k, state)

    def iteration_done(self, k: int, moved: NDArray[Any] | None) -> None:
        """Write the master anew: u_M^k is there, and moved by (S,). Rank 0 only."""
        answer = self._answers[k]
        self._answers.pop(k - 1, None)

        def update() -> None:
            master = self._master
            if moved is not None:
                master.change.append(moved)
            master.iterations = master.facts["iterations"] = k
            master.samples = answer.cpu().numpy()
            master.write()

        self._shard.do(update)

    def fail(self, cause: str) -> None:
        """Close every shard and let the master say why the run failed and show what there is."""
        with contextlib.suppress(StoreError):  # one reason is enough
            self.close()
        reached = self._world.gather(self._shard.iterations)
        counts = self._world.gather(self._shard.event_rows)
        if self._world.rank == 0:
            master = self._master
            master.iterations, master.event_counts = max(reached), counts
            master.facts["status"] = f"failed: {cause}"
            with contextlib.suppress(OSError):
                master.write()

    def finish(self, outcome: Outcome, figures: dict[str, Any], tallies: list[Tally]) -> None:
        """Write the master for good, once every shard is closed. Rank 0 only."""
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
        master.event_counts = [tally.rows for tally in tallies]
        master.write()
