"""A file system of a stated size, for what a full disk does. Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounting(at: Path) -> Iterator[Callable[[int], Path]]:
    """Give a function that mounts a file system of so many bytes; it is unmounted at the end."""
    at.mkdir()

    def mount(size: int) -> Path:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", at],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            reason = f"NO FULL DISK WAS TESTED: no tmpfs can be mounted here: {made.stderr.strip()}"
            if os.environ.get("PINT_CI") == "1":
                pytest.fail(f"{reason} (PINT_CI=1: not to be skipped)")
            pytest.skip(reason)
        return at

    yield mount
    subprocess.run(["umount", "--lazy", at], capture_output=True, check=False)
