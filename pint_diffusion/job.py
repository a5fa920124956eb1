"""A job: one run from settings to files, pictures and a summary, on every rank."""

from __future__ import annotations

import contextlib
import os
import platform
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

import pint_diffusion
from pint_diffusion.config import Settings
from pint_diffusion.errors import InputError, PeerFailure, PintError, TransportError
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.report import draw_pictures
from pint_diffusion.report.progress import Progress
from pint_diffusion.runtime.device import set_threads, usable_cores
from pint_diffusion.runtime.events import EVALUATION_KINDS, EventLog
from pint_diffusion.runtime.world import World
from pint_diffusion.sampling import (
    Plan,
    Solution,
    make_plan,
    solve,
    solve_sequentially,
    warm_up,
)
from pint_diffusion.store.master import MASTER, Master, read_run
from pint_diffusion.store.record import RunRecord
from pint_diffusion.store.shard import ShardWriter


class RunFailed(PintError):
    """A run that ended in mid-way; the same on every rank, with the exit code of its cause."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_job(settings: Settings, world: World, denoiser: Denoiser | None = None) -> RunRecord | None:
    """Sample, write the files of ``settings.out`` and draw the pictures.

    Parameters
    ----------
    settings : Settings
        The run, the same on every rank.
    world : World
        The processes of the run.
    denoiser : Denoiser, optional
        The network, instead of ``settings.model``.

    Returns
    -------
    RunRecord or None
        What was written, on rank 0.

    Raises
    ------
    InputError
        On every rank, before the first message of the run, if one rank finds bad input.
    RunFailed
        On every rank, once the files are closed, if one rank failed.
    """
    threads = set_threads(settings.threads, settings.batching == "off", world.local_size)
    plan = world.agree(lambda: make_plan(settings, world, denoiser))
    world.agree(lambda: clear_folder(settings.out, settings.force) if world.rank == 0 else None)
    if settings.warmup:
        with contextlib.suppress(PintError):  # the run itself will say where it went wrong
            warm_up(plan)
    master = Master(
        settings.out,
        plan.problem.grid,
        {rank: kept(plan, rank, settings) for rank in range(world.size)},
        plan.problem.max_iterations,
        plan.problem.state.shape,
        str(plan.problem.noise.dtype).removeprefix("torch."),
        describe(settings, world, plan, threads),
    )
    with Files(master, world, plan, settings) as files:
        solution = files.guard(lambda: solve(plan, world, files.events, files.record, files.watch))
        sequential = None
        if settings.verify:
            if world.rank == 0:
                sequential = solve_sequentially(plan)
            world.barrier()
        files.finish(solution, sequential)
    record = None
    if world.rank == 0:
        record = read_run(settings.out)
        draw_pictures(record, settings.out)
    world.barrier()
    return record


def kept(plan: Plan, rank: int, settings: Settings) -> list[int]:
    """Numbers n of the boundary states that a rank writes."""
    if settings.keep == "final":
        return []
    problem = plan.problem
    return [n for n in range(problem.grid.slices + 1) if problem.owner(n) == rank]


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


def describe(settings: Settings, world: World, plan: Plan, threads: int) -> dict[str, Any]:
    """Say what runs where, as attributes of the master file."""
    mpi_library = "none"
    if world.comm is not None:
        from mpi4py import MPI

        mpi_library = MPI.Get_library_version().splitlines()[0].strip("\x00 ")
    device = plan.evaluator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    places = world.gather((world.host, f"{device} {name}".strip(), usable_cores(), world.local_size))
    facts: dict[str, Any] = {
        "status": "running",
        "config": settings.to_yaml(),
        "method": settings.method,
        "seed": settings.seed,
        "data_range": plan.problem.stop_rule.data_range,
        "ranks": world.size,
        "threads": threads,
        "hosts": [host for host, *_ in places],
        "devices": [where for _, where, *_ in places],
        "mpi_library": mpi_library,
        "versions": [
            f"pint-diffusion {pint_diffusion.__version__}",
            f"python {platform.python_version()}",
            f"torch {torch.__version__}",
            f"numpy {np.__version__}",
            f"h5py {h5py.__version__}",
        ],
    }
    if device.type == "cpu":
        facts["cores_per_rank"] = min(cores / ranks for *_, cores, ranks in places)
    return facts


@dataclass(frozen=True)
class Tally:
    """What one rank did, counted from its events."""

    evaluations: int
    wasted: int
    calls: int
    evaluating: float
    rows: int

    @classmethod
    def of(cls, events: EventLog, iterations: int) -> Tally:
        """Count; evaluations that the answer after ``iterations`` did not need are wasted."""
        table = events.table()
        made = table[np.isin(table["kind"], EVALUATION_KINDS)]
        fine = made["kind"] == b"fine"
        needed = np.where(fine, made["iteration"] < max(iterations, 1), made["iteration"] <= iterations)
        calls = np.unique(made[["start", "stop"]])
        return cls(
            int(needed.sum()),
            int((~needed).sum()),
            len(calls),
            float((calls["stop"] - calls["start"]).sum()),
            len(table),
        )


class Files:
    """The files of a run while it is under way: this rank's shard, on rank 0 the master too.

    On leaving, whatever happened, the shard is closed, so that what was computed can be read.
    """

    def __init__(self, master: Master, world: World, plan: Plan, settings: Settings) -> None:
        self.events = EventLog(world.rank)
        self._master = master
        self._world = world
        self._plan = plan
        self._slices = plan.problem.grid.slices
        self._answers: dict[int, Tensor] = {}
        self._progress = None
        if world.rank == 0:
            self._progress = Progress(self._slices, master.limit, settings.tolerance)
            master.write()
        world.barrier()
        self._shard = world.agree(self._open_shard)

    def _open_shard(self) -> ShardWriter:
        master = self._master
        master.folder.mkdir(parents=True, exist_ok=True)
        try:
            return ShardWriter(
                master.folder,
                master.shards[self._world.rank],
                master.limit,
                master.state,
                master.dtype,
                self.events,
            )
        except OSError as error:
            raise InputError(f"--out {master.folder} can't be written: {error}") from None

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.close()
        self._shard.close()

    def record(self, n: int, k: int, state: Tensor | None) -> None:
        """Keep a boundary state."""
        if n == self._slices:
            self._answers[k] = self._answers[k - 1] if state is None else state
        self._shard.record(n, k, state)

    def watch(self, n: int, k: int, change: Tensor | None) -> None:
        """Show progress; write the master anew when an iteration is complete. Rank 0 only."""
        moved = None if change is None else change.numpy()
        assert self._progress is not None
        self._progress.boundary(n, k, moved)
        if n == self._slices:
            answer = self._answers[k]
            self._answers.pop(k - 1, None)
            self._shard.do(lambda: self._iteration_done(k, moved, answer))

    def _iteration_done(self, k: int, moved: Any, answer: Tensor) -> None:
        master = self._master
        if moved is not None:
            master.change.append(moved)
        master.iterations = k
        master.samples = answer.cpu().numpy()
        master.facts["iterations"] = k
        master.write()

    def guard(self, work: Any) -> Solution | None:
        """Run the solve; if it failed on any rank, close the files and raise alike on all.

        Raises
        ------
        RunFailed
            With the cause, which rank 0 prints once.
        """
        error: tuple[str, int] | None = None
        solution = None
        try:
            solution = work()
        except PeerFailure:
            pass
        except TransportError:
            raise
        except PintError as caught:
            error = str(caught), caught.exit_code
        except Exception:
            error = "\n" + traceback.format_exc(), 1
        for rank, first in enumerate(self._world.gather(error)):
            if first is not None:
                message, code = first
                where = f"rank {rank} on {self._master.facts['hosts'][rank]}: {message}"
                self._close_failed(where)
                raise RunFailed(where, code)
        return solution

    def _close_failed(self, cause: str) -> None:
        with contextlib.suppress(OSError):
            self._shard.close()
        reached = max(self._world.gather(self._shard.iterations))
        counts = self._world.gather(len(self.events.table()))
        if self._world.rank == 0:
            master = self._master
            master.iterations, master.event_counts = reached, counts
            master.facts["status"] = f"failed: {cause}"
            with contextlib.suppress(OSError):
                master.write()

    def finish(self, solution: Solution | None, sequential: tuple[Tensor, float] | None) -> None:
        """Close every shard, then write the master for good."""
        iterations = self._world.share(solution.outcome.iterations if solution else 0)
        self._shard.close()
        tallies = self._world.gather(Tally.of(self.events, iterations))
        if solution is None:
            return
        master, outcome = self._master, solution.outcome
        calls = sum(tally.calls for tally in tallies)
        master.facts |= {
            "status": "finished" if outcome.converged else "not converged",
            "iterations": outcome.iterations,
            "converged": outcome.converged,
            "exact": outcome.exact,
            "evaluations": sum(tally.evaluations for tally in tallies),
            "evaluations_wasted": sum(tally.wasted for tally in tallies),
            "evaluations_deep": solution.clock.deep,
            "calls_deep": solution.clock.calls,
            "network_calls": calls,
            "evaluation_time": sum(tally.evaluating for tally in tallies) / max(calls, 1),
            "wall_time": solution.wall_time,
        }
        if sequential is not None:
            answer, seconds = sequential
            master.sequential = answer.cpu().numpy()
            master.facts["sequential_wall_time"] = seconds
        master.iterations = outcome.iterations
        master.change = list(outcome.changes)
        master.stopped_at = outcome.stopped_at
        master.event_counts = [tally.rows for tally in tallies]
        master.write()
