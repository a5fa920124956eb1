"""A job: one run from settings to files, pictures and a summary, on every rank."""

from __future__ import annotations

import contextlib
import logging
import threading

from pint_diffusion.build.agreement import refuse_differences
from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.build.plan import tell_doubt
from pint_diffusion.build.probe import refuse_dependent_rows
from pint_diffusion.commands.check.quick import refuse_or_warn
from pint_diffusion.commands.silence import EndJob
from pint_diffusion.errors import InputError, Interrupted, PintError, StoreError
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.output import Output
from pint_diffusion.report import draw_pictures
from pint_diffusion.report.progress import ProgressBar
from pint_diffusion.report.stream import Stream
from pint_diffusion.run import solve, warm_up
from pint_diffusion.runtime.device import keep_memory, set_precision, set_threads
from pint_diffusion.runtime.signals import listening
from pint_diffusion.runtime.world import World
from pint_diffusion.settings.run import Settings
from pint_diffusion.store.clear import STREAM
from pint_diffusion.store.folder import Files
from pint_diffusion.store.master import read_run
from pint_diffusion.store.record import RunRecord

LOG = logging.getLogger(__name__)


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
    cores = world.host_cores()
    world.agree(
        lambda: set_threads(settings.threads, settings.batching == "off", cores, world.local_size)
    )
    refuse_or_warn(settings, world, denoiser)
    set_precision(settings.tf32, settings.attention)
    keep_memory()
    plan = world.agree(lambda: plan_of(settings, world, denoiser))
    refuse_differences(plan, world, settings.to_yaml())
    LOG.debug("network %s", plan.fingerprint)  # of what it holds before its first call
    world.agree(lambda: refuse_own_start(settings))
    if not settings.trust_rows:
        refuse_dependent_rows(plan, world)
    tell_doubt(plan, world.rank)
    if settings.trust_rows and settings.warmup:
        with contextlib.suppress(PintError):  # the run itself will say where it went wrong
            warm_up(plan)
    keep = settings.keep, settings.checkpoint_every
    files = Files(settings.out, settings.force, *keep, resume, settings.to_yaml())
    outputs: list[Output] = [files, ProgressBar()]
    if settings.stream:
        outputs.append(Stream(settings.out / STREAM))
    with listening() as asked:
        try:
            run = solve(
                plan,
                world,
                [*outputs, Asked(asked), EndJob(world)],
                settings.verify,
                settings.watchdog,
            )
        except Interrupted as error:
            raise Interrupted(
                f"{error} after iteration {world.share(files.reached)}; go on with "
                f"'pint-diffusion resume {settings.out}'"
            ) from None
        if settings.verify and world.rank == 0 and run.sequential is None:
            LOG.info(
                "a signal ended the sequential sampler of `verify`; the run is complete",
                extra={"rank": 0},
            )
        return world.agree(lambda: read_and_draw(settings) if world.rank == 0 else None)


class Asked(Output):
    """Ends the run when a signal has asked for it.

    Parameters
    ----------
    asked : threading.Event
        Set by the signal.
    """

    def __init__(self, asked: threading.Event) -> None:
        self._asked = asked

    def check(self) -> None:
        """Raise Interrupted if so."""
        if self._asked.is_set():
            raise Interrupted("interrupted by a signal")


def refuse_own_start(settings: Settings) -> None:
    """Refuse to overwrite the run to begin on.

    Raises
    ------
    InputError
        If it is in the folder of the run.
    """
    begin = settings.method.begins_on
    if begin is not None:
        run = begin if begin.is_dir() else begin.parent
        if run.resolve() == settings.out.resolve():
            raise InputError(
                f"`out` {settings.out} holds the run of `warm_start`, which this one would "
                "overwrite: give another folder"
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
