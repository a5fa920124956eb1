"""The ways a run can end other than well, each with its exit code."""

from __future__ import annotations

import re
from textwrap import shorten

EXIT_NOT_CONVERGED = 3
"""Exit code of a run whose iterations were used up before the tolerance was met."""


class PintError(Exception):
    """Base of the errors that are told to the user in one sentence, without a traceback."""

    exit_code = 1


class InputError(PintError):
    """Something the user gave can't be used: says what, where, and what to do.

    Options stand in backquotes, by the names that they have in Python.
    """

    exit_code = 2

    @property
    def field(self) -> str | None:
        """The option that is wrong, the first one in backquotes; None if the sentence has none."""
        found = re.search(r"`(\w+)`", str(self))
        return found[1] if found else None


class InputWarning(UserWarning):
    """Something the user gave is used, but not all of it, or not as it may be meant."""


class NetworkError(PintError):
    """The network returned NaN, infinity or the wrong shape in mid-run."""

    exit_code = 4


class NetworkRaisedError(PintError):
    """The network raised an exception of its own; holds the traceback."""


class StoreError(PintError):
    """A file of a run could not be written."""


class RunFailed(PintError):
    """A run that ended midway; raised alike on every rank, with the exit code of its cause."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PeerFailure(PintError):
    """Another rank failed; that rank knows why."""


class TransportError(Exception):
    """Messages can no longer be moved, so the ranks can't agree on anything any more."""


class Interrupted(PintError):
    """The run ended on a signal or a request, and can be resumed."""

    exit_code = 75


def reason(error: BaseException) -> str:
    """Return what another library's exception says, on one line, to be quoted in a sentence."""
    return shorten(f"{type(error).__name__}: {error}", 300)
