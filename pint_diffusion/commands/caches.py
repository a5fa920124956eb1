"""The caches of libraries that draw: in the system's temporary folder, not in the user's home."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import stat
import tempfile
from atexit import register
from pathlib import Path

from pint_diffusion.report.figure import import_matplotlib


@functools.cache
def keep_out_of_home() -> None:
    """Let matplotlib, and fontconfig which it asks for fonts, write into the temporary folder.

    Where the user has said where matplotlib writes (MPLCONFIGDIR), that stays. The command calls
    this before it draws; a library must not change the environment of a program.
    """
    with contextlib.suppress(OSError):  # then matplotlib says what it could not do
        if not os.environ.get("MPLCONFIGDIR"):
            os.environ["MPLCONFIGDIR"] = str(own_folder() / "matplotlib")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = os.environ.get("MPLCONFIGDIR", "")
    try:
        import_matplotlib()
        import matplotlib.font_manager  # noqa: F401
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def own_folder() -> Path:
    """Return a folder of this user's in the system's temporary folder, which nobody else can enter.

    It is the same one every time, unless somebody else was faster in making something of its name.

    Raises
    ------
    OSError
        If there is no temporary folder.
    """
    folder = Path(tempfile.gettempdir()) / f"pint_diffusion-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
    there = os.lstat(folder)
    mine = stat.S_ISDIR(there.st_mode) and there.st_uid == os.geteuid()
    if mine and not there.st_mode & 0o077:
        return folder
    fresh = tempfile.mkdtemp(prefix="pint_diffusion-")
    register(shutil.rmtree, fresh, ignore_errors=True)
    return Path(fresh)
