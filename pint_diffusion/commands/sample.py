"""A job: one run from settings to files, pictures and a summary, on every rank."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
import threading
import traceback
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.build.plan import Plan, make_plan
from pint_diffusion.commands.check.quick import refuse_or_warn
from pint_diffusion.commands.silence import job_ender
from pint_diffusion.errors import (
    InputError,
    Interrupted,
    PeerFailure,
    PintError,
    RunFailed,
    StoreError,
    TransportError,
)
from pint_diffusion.methods.problem import Problem, Restart
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.report import draw_pictures, stream_answer
from pint_diffusion.report.progress import Progress, RoundProgress
from pint_diffusion.run import Solution, solve, solve_sequentially, warm_up
from pint_diffusion.runtime.device import keep_memory, set_threads
from pint_diffusion.runtime.events import EventLog, Tally
from pint_diffusion.runtime.signals import listening
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.run import Settings
from pint_diffusion.store.description import describe_run, figures
from pint_diffusion.store.folder import STREAM, RunFolder, clear_folder
from pint_diffusion.store.lock import FolderLock
from pint_diffusion.store.manifest import Manifest
from pint_diffusion.store.master import read_run
from pint_diffusion.store.record import RunRecord
from pint_diffusion.store.restart import Found, find, fingerprint


def run_job(
    settings: Settings, world: World, denoiser: Denoiser | None = None, resume: bool = False
) -> RunRecord | None:
    """Sample, write the files of ``settings.out`` and draw the pictures.

    Parameters
    ----------
    settings : Settings
        The run, the same on every rank.
    world : World
        The processes of the run.
    denoiser : Denoiser, optional
        The network, instead of ``settings.model``.
    resume : bool
        Go on with the run in ``settings.out``, whose settings these are but for those that may
        differ, see `resume.settings_of`.

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
    Interrupted
        On every rank, once the files are closed, if one rank was asked to end.
    StoreError
        On every rank, if a file could not be written.
    TransportError
        If the ranks can no longer agree on how to end.
    """
    with contextlib.ExitStack() as held:
        return run_and_write(settings, world, denoiser, resume, held)


def run_and_write(
    settings: Settings,
    world: World,
    denoiser: Denoiser | None,
    resume: bool,
    held: contextlib.ExitStack,
) -> RunRecord | None:
    """Do what `run_job` says; rank 0 enters the lock of the folder into ``held``."""
    cores = world.host_cores()
    threads = world.agree(
        lambda: set_threads(settings.threads, settings.batching == "off", cores, world.local_size)
    )
    refuse_or_warn(settings, world, denoiser)
    keep_memory()
    plan = world.agree(lambda: make_plan(settings, world, denoiser))
    refuse_differences(settings, world, plan)
    manifest = Manifest(settings.out, {}, [])
    segment = first = 0
    networks = [evaluator.denoiser for evaluator in plan.evaluators]
    identity = fingerprint(networks) if world.rank == 0 else ""
    if resume:
        problem = plan.problem

        def lock_and_find() -> Found | None:
            if world.rank != 0:
                return None
            held.enter_context(FolderLock(settings.out))
            return find(settings.out, problem.grid, identity)

        found = world.share(world.agree(lock_and_find))
        assert found is not None
        manifest, segment = found.manifest, found.segment
        k = found.k
        if k is not None and settings.method != "sequential":
            restart = world.agree(lambda: read_restart(manifest, k, problem))
            plan = dataclasses.replace(plan, problem=dataclasses.replace(problem, restart=restart))
            first = restart.k + 1
    else:
        world.agree(lambda: held.enter_context(take_folder(settings)) if world.rank == 0 else None)
    if settings.warmup:
        with contextlib.suppress(PintError):  # the run itself will say where it went wrong
            warm_up(plan)
    events = EventLog(world.rank)
    about = describe_run(settings, world, plan, threads, cores)
    about.facts |= {
        "fingerprint": identity,
        "segment": segment,
        "resumed_after": first - 1,
    }
    if plan.problem.restart is not None:
        about.change = list(plan.problem.restart.changes[:-1])
    keep = settings.keep == "boundary" and not plan.method.rounds, settings.checkpoint_every
    with (
        listening() as asked,
        RunFolder(about, manifest, segment, first, *keep, world, events) as folder,
    ):
        solution, sequential = solve_and_watch(plan, world, events, folder, settings, asked)
        iterations = world.share(solution.outcome.iterations if solution else 0)
        tallies = world.gather(Tally.of(events, iterations))

        def finish() -> None:
            if solution is not None:
                folder.finish(solution.outcome, figures(solution, tallies, sequential))

        try:
            folder.close_all()
            world.agree(finish)
        except PintError as error:
            folder.end(f"failed: {error}")
            raise
        return world.agree(lambda: read_and_draw(settings) if world.rank == 0 else None)


def take_folder(settings: Settings) -> FolderLock:
    """Make the folder of a new run ready and lock it.

    Raises
    ------
    InputError
        If that is not possible, or if the run in it is the one to begin on.
    """
    begin = settings.warm_start
    if begin is not None:
        run = begin if begin.is_dir() else begin.parent
        if run.resolve() == settings.out.resolve():
            raise InputError(
                f"--out {settings.out} holds the run of --warm-start, which this one would "
                "overwrite: give another folder"
            )
    return clear_folder(settings.out, settings.force)


def read_restart(manifest: Manifest, k: int, problem: Problem) -> Restart:
    """Read iteration ``k`` of a run.

    Raises
    ------
    StoreError
        If its parts can't be read here.
    """
    states = manifest.states(k, range(problem.columns + 1))

    def state(n: int) -> Tensor:
        return torch.from_numpy(states[n]).to(problem.noise.device)

    return Restart(k, state, [np.array(row) for row in manifest.changes[:k]])


def refuse_differences(settings: Settings, world: World, plan: Plan) -> None:
    """Refuse a run whose ranks read different settings or models, or compute on unlike devices.

    Raises
    ------
    InputError
        On every rank, naming the first rank that differs from rank 0.
    """
    problem = plan.problem
    digest = hashlib.sha256(settings.to_yaml().encode())
    for network in (evaluator.denoiser for evaluator in plan.evaluators):
        digest.update(repr((problem.grid, network.shape, network.prediction)).encode())
    digest.update(problem.noise.cpu().numpy().tobytes())
    seen = world.gather((digest.hexdigest(), plan.evaluators[0].device.type, world.host))
    for rank, (read, device, host) in enumerate(seen):
        if read != seen[0][0]:
            raise InputError(
                f"rank {rank} on {host} has other settings or another model than rank 0: give all "
                "ranks the same files, by absolute paths"
            )
        if device != seen[0][1]:
            raise InputError(
                f"rank {rank} on {host} would compute on {device} and rank 0 on {seen[0][1]}: use "
                "--device cpu, or find out with 'pint-diffusion check' why that host sees no GPU"
            )


def read_and_draw(settings: Settings) -> RunRecord:
    """Read the files back, as a user would, and draw the pictures from them.

    Raises
    ------
    StoreError
        If these can't be written.
    """
    record = read_run(settings.out)
    try:
        draw_pictures(record, settings.out)
    except OSError as error:
        raise StoreError(
            f"the run is complete, but its pictures could not be written to {settings.out}: "
            f"{error.strerror}; 'pint-diffusion export' draws them"
        ) from None
    return record


def solve_and_watch(
    plan: Plan,
    world: World,
    events: EventLog,
    folder: RunFolder,
    settings: Settings,
    asked: threading.Event,
) -> tuple[Solution | None, tuple[Tensor, float] | None]:
    """Solve with progress shown and files written; fail alike on every rank.

    ``asked`` tells whether somebody asked this process to end. Returns the solution and, with
    ``--verify``, the sequential sampler's answer and seconds, if there was time for it; both on
    rank 0.

    Raises
    ------
    RunFailed
        If any rank failed; the message has the cause, and the files what came before it.
    """
    problem = plan.problem
    progress: Progress | RoundProgress | None = None
    if world.rank == 0 and plan.method.rounds:
        progress = RoundProgress(problem.grid.steps)
    elif world.rank == 0:
        progress = Progress(problem.columns, problem.max_iterations, problem.tolerance)
    stream = partial(stream_answer, folder.path / STREAM, problem.stop_rule.data_range)

    def watch(n: int, k: int, change: Tensor | None) -> bool | None:
        assert progress is not None
        moved = None if change is None else change.numpy()
        progress.boundary(n, k, moved)
        if n != problem.columns:
            return None
        return folder.iteration_done(k, moved, stream if settings.stream else None)

    error: tuple[str, int] | None = None
    interrupted: str | None = None
    solution = sequential = None

    def asked_to_end() -> bool:
        folder.check()
        return asked.is_set()

    try:
        solution = solve(
            plan, world, events, folder.record, watch, asked_to_end,
            job_ender(world, folder.lost), folder.decided,
        )  # fmt: skip
        if settings.verify and world.rank == 0:
            sequential = verified(plan, asked)
    except PeerFailure:
        pass  # that rank says why
    except Interrupted as caught:
        interrupted = str(caught)
    except TransportError:
        raise
    except PintError as caught:
        error = str(caught), caught.exit_code
    except (Exception, SystemExit):
        error = "\n" + traceback.format_exc(), 1
    finally:
        if progress is not None:
            progress.close()
    world.barrier()
    for rank, (host, failure) in enumerate(world.gather((world.host, error))):
        if failure is not None:
            message, code = failure
            cause = f"rank {rank} on {host}: {message}"
            folder.end(f"failed: {cause}")
            raise RunFailed(cause, code)
    asked_ranks = [rank for rank, told in enumerate(world.gather(interrupted)) if told]
    if asked_ranks and not world.share(solution is not None):
        folder.end("interrupted")
        reached = world.share(folder.reached)
        raise Interrupted(
            f"interrupted by a signal after iteration {reached}; go on with "
            f"'pint-diffusion resume {folder.path}'"
        )
    return solution, sequential


def verified(plan: Plan, asked: threading.Event) -> tuple[Tensor, float] | None:
    """Run the sequential sampler; the answer is there, so a signal ends no more than this."""
    try:
        return solve_sequentially(plan, asked.is_set)
    except Interrupted:
        print(
            "pint-diffusion: note: a signal ended the sequential sampler of --verify; the run is "
            "complete",
            file=sys.stderr,
        )
        return None
