"""The command line: ``pint-diffusion sample | resume | compare | inspect | export | ...``."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from pint_diffusion.commands.printing import print_cause, printed, tell_error
from pint_diffusion.commands.versions import version_text
from pint_diffusion.errors import EXIT_NOT_CONVERGED, InputError, PintError
from pint_diffusion.models import find_source
from pint_diffusion.runtime.launcher import is_first, read_launcher, refuse_environment
from pint_diffusion.runtime.world import LocalWorld, World, open_world
from pint_diffusion.settings.reading import CommandSettings, help_of, parse
from pint_diffusion.store.place import refuse_no_folder

if TYPE_CHECKING:
    from pint_diffusion.settings.compare import Compare
    from pint_diffusion.settings.run import Settings

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

'pint-diffusion COMMAND --help' lists the options of a command, and 'pint-diffusion --version' the
versions of the program and of its libraries. Several ranks are started by an MPI launcher:
mpiexec -n 4 pint-diffusion sample ...

exit codes: 0 done, 1 failed, 2 bad input, 3 tolerance not reached, 4 network returned NaN or the
wrong shape, 75 interrupted by a signal and can be resumed
"""

Job = TypeVar("Job", "Settings", "Compare")

HELP_FLAGS = {"-h", "--help", "--help-all"}
DEBUG = "--debug"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in given
    world: World = LocalWorld()
    speaks = is_first()

    def open_once(transport: str) -> World:
        nonlocal world
        world = open_world(transport)
        return world

    with printed(debug, speaks):
        try:
            return _run([one for one in given if one != DEBUG], speaks, open_once)
        except PintError as error:
            if debug and (speaks or error.__cause__):
                print_cause(error)
            if speaks:
                tell_error(error, debug)
            return error.exit_code
        except (Exception, KeyboardInterrupt):
            # The other ranks may be anywhere, so there is no agreeing with them.
            print(f"pint-diffusion: rank {world.rank} on {world.host} failed", file=sys.stderr)
            traceback.print_exc()
            world.abort(1)
            raise


def _run(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    command = arguments[0] if arguments else "--help"
    asks = HELP_FLAGS & {command, *arguments}
    if (asks or command == "--version") and not speaks:
        return 0
    if command in HELP_FLAGS:
        print(HELP, end="")
        return 0
    if command == "--version":
        print(version_text())
        return 0
    if command not in COMMANDS:
        raise InputError(
            f"unknown command {command!r}: it is one of {', '.join(COMMANDS)}; "
            "see pint-diffusion --help"
        )
    if asks:
        print(_help(command, arguments[1:]), end="")
        return 0
    refuse_environment()
    return COMMANDS[command](arguments[1:], speaks, open_once)


def _help(command: str, arguments: list[str]) -> str:
    if command == "resume":
        from pint_diffusion.settings.resume import resume_help

        return resume_help()
    return help_of(_settings_kind(command), arguments)


def _settings_kind(command: str) -> type[CommandSettings]:
    """Return the settings of a command; torch comes in with those that name methods or solvers."""
    if command == "sample":
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
    if command == "inspect":
        from pint_diffusion.settings.inspect import Inspect

        return Inspect
    from pint_diffusion.settings.export import Export

    return Export


def _sample(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    from pint_diffusion.settings.run import Settings

    return _run_job(lambda: parse(Settings, arguments), speaks, open_once)


def _resume(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    def settings() -> Settings:
        if not arguments or arguments[0].startswith("-"):
            raise InputError(
                "RUN is missing: pint-diffusion resume RUN [options]; see pint-diffusion resume "
                "--help"
            )
        from pint_diffusion.commands.resume import settings_of
        from pint_diffusion.settings.inspect import Inspect

        return settings_of(parse(Inspect, arguments[:1]).run, arguments[1:])

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
    read: Callable[[], Job], speaks: bool, open_once: Callable[[str], World]
) -> tuple[Job, World] | None:
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
        refuse_no_folder(settings.out)
    except InputError as error:
        wrong = error
    world = open_once(transport)
    world.agree(lambda: _refuse(wrong))
    return settings, world


def _refuse(wrong: InputError | None) -> None:
    if wrong is not None:
        raise wrong


def refuse_several(kind: type[CommandSettings]) -> None:
    """Refuse to run a command of one process in several, of which all but one would do nothing."""
    launcher = read_launcher()
    if launcher is not None and launcher.size > 1:
        raise InputError(f"{kind.name} runs in one process: start it without a launcher")


def _inspect(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    from pint_diffusion.settings.inspect import Inspect

    settings = parse(Inspect, arguments)
    refuse_several(Inspect)
    from pint_diffusion.report.inspection import inspect_run, inspection_table

    found = inspect_run(settings.run)
    print(inspection_table(found))
    return 0 if found.whole else 1


def _export(arguments: list[str], speaks: bool, open_once: Callable[[str], World]) -> int:
    from pint_diffusion.settings.export import Export

    settings = parse(Export, arguments)
    refuse_several(Export)
    if settings.trace is not None:
        from pint_diffusion.report.trace import write_trace

        print(f"{settings.trace}: {write_trace(settings.run, settings.trace)} events")
    else:
        from pint_diffusion.commands.caches import keep_out_of_home
        from pint_diffusion.report import draw_pictures
        from pint_diffusion.store.master import read_run

        folder = settings.out or settings.run
        if settings.out is not None:
            refuse_no_folder(folder)
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
    refuse_several(GridSettings)
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
