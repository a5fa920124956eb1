"""What the command prints on standard error: one line each for what the library says and raises."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from pint_diffusion.errors import InputError, InputWarning, PintError
from pint_diffusion.settings.flags import with_flags

LEVELS = {logging.INFO: "note", logging.WARNING: "warning"}
"""What the command calls the levels of the library's log; all else is an error."""

LONGEST = 2000
"""Most characters of a line."""

CHATTY = ("accelerate", "diffusers", "huggingface_hub", "matplotlib", "torch", "transformers")
"""Libraries whose logs are hidden; they say on many lines what an error says on one."""

SILENT = {
    "DIFFUSERS_VERBOSITY": "critical",
    "TRANSFORMERS_VERBOSITY": "critical",
    "TQDM_DISABLE": "1",
}
"""Environment variables that libraries read when they are imported: no logs, no bars but ours."""


def tell(level: str, text: str, lines: bool = False) -> None:
    """Print a line of the program, with options as flags; the text may have ``lines``, if so."""
    text = with_flags(text)
    told = text if lines else one_line(text)
    print(f"pint-diffusion: {level}: {told}", file=sys.stderr, flush=True)


def tell_error(error: PintError, debug: bool) -> None:
    """Print an error; of bad input in one line, and that ``--debug`` says what is behind it."""
    behind = error.__cause__
    while isinstance(behind, PintError):
        behind = behind.__cause__
    bad_input = isinstance(error, InputError)
    more = " (--debug says more)" if bad_input and behind and not debug else ""
    tell("error", f"{error}{more}", lines=not bad_input)


def one_line(text: str) -> str:
    """Return a text of a user or of a file without line breaks and control characters, and cut."""
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class Told(logging.Handler):
    """Prints what the library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        tell(LEVELS.get(record.levelno, "error"), record.getMessage())


@contextlib.contextmanager
def printed(debug: bool, speaks: bool) -> Iterator[None]:
    """Print what the library logs and warns of; what other libraries say only for ``debug``.

    Parameters
    ----------
    debug : bool
        Let other libraries speak.
    speaks : bool
        Whether this rank prints the warnings, which all ranks have alike.
    """
    show = warnings.showwarning

    def print_own(message: Any, category: type[Warning], *where: Any) -> None:
        if issubclass(category, InputWarning):
            if speaks:
                tell("warning", str(message))
        elif debug:
            show(message, category, *where)

    with contextlib.ExitStack() as undo:
        logger, told = logging.getLogger("pint_diffusion"), Told()
        undo.callback(logger.setLevel, logger.level)
        undo.callback(setattr, logger, "propagate", logger.propagate)
        undo.callback(logger.removeHandler, told)
        logger.addHandler(told)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = print_own  # type: ignore[assignment]
        if not debug:
            undo.enter_context(others_silent())
        yield


@contextlib.contextmanager
def others_silent() -> Iterator[None]:
    """Hide the logs of other libraries, also of those that are imported inside."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    before = {name: os.environ.get(name) for name in SILENT}
    os.environ.update(SILENT)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def print_cause(error: BaseException) -> None:
    """Print the traceback of an error, and of what is behind it, on the rank that has it."""
    behind: BaseException | None = error
    while behind is not None:
        behind.__suppress_context__ = False
        behind = behind.__cause__ or behind.__context__
    traceback.print_exception(error)
