"""The command line: ``pint-diffusion sample | resume | compare | inspect | export | ...``."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import Field

from pint_diffusion.errors import EXIT_NOT_CONVERGED, InputError, PintError
from pint_diffusion.models import find_source
from pint_diffusion.runtime.world import LocalWorld, World, open_world, read_launcher
from pint_diffusion.settings.flags import as_flags
from pint_diffusion.settings.reading import CommandSettings, help_of, parse

if TYPE_CHECKING:
    from pint_diffusion.settings.run import SamplingSettings, Settings

HELP = """\
usage: pint-diffusion COMMAND [options]

Parallel-in-time sampling of diffusion models.

commands:
  sample   draw samples with pipelined Parareal (or sequentially), write files and pictures
  resume   go on with a run that was interrupted, killed, or is to be iterated further
  compare  run every method on one problem, by its own rule and at equal error: table and figure
  inspect  say what is in the folder of a run, whatever became of it, and whether it is whole
  export   draw the pictures of a finished run again, or write its events as a trace
  grid     compute noise levels and slice boundaries, store them in a file for sample --grid
  check    say what launcher, MPI, devices, network and files are, what is wrong, and what to do

'pint-diffusion COMMAND --help' lists the options of a command. Several ranks are started by an
MPI launcher: mpiexec -n 4 pint-diffusion sample ...

exit codes: 0 done, 1 failed, 2 bad input, 3 tolerance not reached, 4 network returned NaN or the
wrong shape, 75 interrupted by a signal and can be resumed
"""

Run = TypeVar("Run", bound="SamplingSettings")

LEVELS = {logging.INFO: "note", logging.WARNING: "warning"}
"""What the command calls the levels of the library's log; all else is an error."""


class Export(CommandSettings):
    """Draw the pictures of a finished run again, or write its events as a trace."""

    name: ClassVar[str] = "export"

    run: Path = Field(description="folder of the run", json_schema_extra={"by_place": True})
    out: Path | None = Field(None, description="folder of the pictures; the run's if not given")
    trace: Path | None = Field(
        None,
        description="JSON file to write the events to, for ui.perfetto.dev or chrome://tracing, "
        "instead of the pictures",
    )


class Inspect(CommandSettings):
    """Say what is in the folder of a run, whatever became of it, and whether it is whole."""

    name: ClassVar[str] = "inspect"

    run: Path = Field(description="folder of the run", json_schema_extra={"by_place": True})


class Told(logging.Handler):
    """Prints what the library logs, on standard error, with options as flags."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        level = LEVELS.get(record.levelno, "error")
        text = as_flags(record.getMessage())
        print(f"pint-diffusion: {level}: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    world: World = LocalWorld()
    launcher = read_launcher()
    speaks = launcher is None or launcher.rank == 0

    def open_once(transport: str) -> World:
        nonlocal world
        world = open_world(transport)
        return world

    logger, told = logging.getLogger("pint_diffusion"), Told()
    before = logger.level, logger.propagate
    logger.addHandler(told)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        return _run(arguments, speaks, open_once)
    except PintError as error:
        if speaks:
            print(f"pint-diffusion: error: {as_flags(str(error))}", file=sys.stderr, flush=True)
        return error.exit_code
    except (Exception, KeyboardInterrupt):
        # The other ranks may be anywhere, so there is no agreeing with them.
        print(f"pint-diffusion: rank {world.rank} on {world.host} failed", file=sys.stderr)
        traceback.print_exc()
        world.abort(1)
        raise
    finally:
        logger.removeHandler(told)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _run(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    command = arguments[0] if arguments else "--help"
    asks = HELP_FLAGS & {command, *arguments}
    if asks and not speaks:
        return 0
    if command in HELP_FLAGS:
        print(HELP, end="")
        return 0
    if command not in COMMANDS:
        raise InputError(
            f"unknown command {command!r}: it is one of {', '.join(COMMANDS)}; "
            "see pint-diffusion --help"
        )
    if asks:
        print(help_of(_settings_kind(command), arguments[1:]), end="")
        return 0
    return COMMANDS[command](arguments[1:], speaks, open_once)


def _settings_kind(command: str) -> type[CommandSettings]:
    """Return the settings of a command; torch comes in with those that name methods or solvers."""
    if command in ("sample", "resume"):
        from pint_diffusion.settings.run import Settings

        return Settings
    if command == "compare":
        from pint_diffusion.settings.compare import Compare

        return Compare
    if command == "grid":
        from pint_diffusion.settings.grid import GridSettings

        return GridSettings
    if command == "check":
        from pint_diffusion.settings.check import Check

        return Check
    return Inspect if command == "inspect" else Export


def _sample(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    from pint_diffusion.settings.run import Settings

    return _run_job(lambda: parse(Settings, arguments), speaks, open_once)


def _resume(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    def settings() -> Settings:
        if not arguments or arguments[0].startswith("-"):
            raise InputError("RUN is missing: pint-diffusion resume FOLDER [options of sample]")
        from pint_diffusion.commands.resume import settings_of

        return settings_of(Path(arguments[0]), arguments[1:])

    return _run_job(settings, speaks, open_once, resume=True)


def _run_job(
    read: Callable[[], Settings],
    speaks: bool,
    open_once: Callable[[str], World],
    resume: bool = False,
) -> int:
    agreed = _agree(read, speaks, open_once)
    if agreed is None:
        return 0
    settings, world = agreed
    from pint_diffusion.commands.sample import run_job
    from pint_diffusion.report.summary import summary_table

    record = run_job(settings, world, resume=resume)
    if record is not None:
        print(summary_table(record))
        print(f"files and pictures are in {settings.out}{os.sep}", flush=True)
    converged = world.share(record is None or bool(record.facts["converged"]))
    return 0 if converged else EXIT_NOT_CONVERGED


def _compare(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    from pint_diffusion.settings.compare import Compare

    agreed = _agree(lambda: parse(Compare, arguments), speaks, open_once)
    if agreed is None:
        return 0
    from pint_diffusion.commands.compare.command import compare

    compare(*agreed)
    return 0


def _agree(
    read: Callable[[], Run], speaks: bool, open_once: Callable[[str], World]
) -> tuple[Run, World] | None:
    """Read settings on every rank and open the world; None where they were only to be printed.

    A file may be missing on one host only: the ranks agree on what is wrong.
    """
    wrong: InputError | None = None
    transport = "auto"
    try:
        settings = read()
        if settings.print_config:
            if speaks:
                print(settings.to_yaml(), end="")
            return None
        transport = settings.transport
        find_source(settings.model)
    except InputError as error:
        wrong = error
    world = open_once(transport)
    world.agree(lambda: _refuse(wrong))
    return settings, world


def _refuse(wrong: InputError | None) -> None:
    if wrong is not None:
        raise wrong


def _inspect(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    settings = parse(Inspect, arguments)
    if not speaks:
        return 0
    from pint_diffusion.report.inspection import inspect_run, inspection_table

    found = inspect_run(settings.run)
    print(inspection_table(found))
    return 0 if found.whole else 1


def _export(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    settings = parse(Export, arguments)
    if speaks and settings.trace is not None:
        from pint_diffusion.report.trace import write_trace

        print(f"{settings.trace}: {write_trace(settings.run, settings.trace)} events")
    elif speaks:
        from pint_diffusion.commands.caches import keep_out_of_home
        from pint_diffusion.report import draw_pictures
        from pint_diffusion.store.master import read_run

        folder = settings.out or settings.run
        record = read_run(settings.run)
        keep_out_of_home()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in draw_pictures(record, folder):
                print(path)
        except OSError as error:
            raise InputError(f"`out` {folder} can't be written: {error}") from None
    return 0


def _grid(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    from pint_diffusion.settings.grid import GridSettings

    settings = parse(GridSettings, arguments)
    launcher = read_launcher()
    if launcher is not None and launcher.size > 1:
        raise InputError("grid runs in one process: start it without a launcher")
    find_source(settings.model)
    from pint_diffusion.commands.grid import grid_table, make_grid_file

    grid = make_grid_file(settings)
    print(f"{settings.file}: {grid.steps} steps, --spacing {settings.spacing}")
    print(grid_table(grid), flush=True)
    return 0


def _check(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    from pint_diffusion.settings.check import Check

    settings = parse(Check, arguments)
    from pint_diffusion.commands.check.command import check

    return check(settings, open_once)


HELP_FLAGS = {"-h", "--help", "--help-all"}

COMMANDS: dict[str, Callable[[list[str], bool, Callable[[str], World]], int]] = {
    "sample": _sample,
    "resume": _resume,
    "compare": _compare,
    "inspect": _inspect,
    "export": _export,
    "grid": _grid,
    "check": _check,
}
"""Commands by their names."""
