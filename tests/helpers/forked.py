"""The command line in a process of its own that need not import torch again: a fork.

For many short runs in one process. What is to be started by a launcher is, see `helpers.launch`.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

from helpers.launch import LAUNCHER_VARIABLES

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pint_diffusion.commands.sample", "pint_diffusion.settings.run"])


def fork(arguments, environment, said: Path) -> multiprocessing.Process:
    """Start ``pint-diffusion ARGUMENTS``; what it says goes into a file."""
    given = list(map(str, arguments)), dict(environment), str(said)
    process = _CONTEXT.Process(target=_run, args=given, daemon=True)
    process.start()
    return process


def _run(arguments, environment, said):
    os.setsid()
    into = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(into, 1)
    os.dup2(into, 2)
    for name in [name for name in os.environ if name.startswith(LAUNCHER_VARIABLES)]:
        del os.environ[name]
    os.environ.update(environment)
    from pint_diffusion.commands.cli import main

    sys.exit(main(arguments))
