"""A run writes into its folder and the system's temporary one, and needs neither home nor net."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import walled
from helpers.launch import launch

import pint_diffusion

WALLS = Path(walled.__path__[0])
PACKAGE = Path(pint_diffusion.__file__).parent
FACTORY = """\
import numpy as np
from pint_diffusion.models.mixture import GaussianMixture
def factory(device, dtype):
    return GaussianMixture(np.linspace(-1, 1, 6).reshape(2, 3), [0.1] * 2, [0.5] * 2, device, dtype)
"""


def everything(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture
def places(tmp_path):
    """A home, a temporary folder, one to start from, one with a factory, and one for notes."""
    found = {name: tmp_path / name for name in ("home", "tmp", "start", "mine", "notes")}
    for folder in found.values():
        folder.mkdir()
    (found["mine"] / "net.py").write_text(FACTORY)
    return found


def walled_launch(places, *given, ranks=1, home=None):
    """Start the command behind walls, with a strict umask; return what it wrote outside."""
    before = {name: everything(places[name]) for name in ("home", "start", "mine")}
    mask = os.umask(0o077)
    try:
        ended = launch(
            *given,
            ranks=ranks,
            cwd=places["start"],
            environment={
                "HOME": str(home or places["home"]),
                "TMPDIR": str(places["tmp"]),
                "PYTHONPATH": os.pathsep.join([str(WALLS), str(PACKAGE.parent)]),
                "WALLED": str(places["notes"]),
                "TORCHINDUCTOR_CACHE_DIR": str(places["tmp"]),  # torch sets it in this process
                **dict.fromkeys(("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), ""),
            },
        )
    finally:
        os.umask(mask)
    assert ended.code == 0, ended
    assert "emporary" not in ended.err  # matplotlib, of its cache
    notes = [path.read_text().splitlines() for path in places["notes"].iterdir()]
    assert len(notes) >= ranks
    touched = {Path(line) for lines in notes for line in lines}
    assert touched, "the walls saw nothing"
    assert {name: everything(places[name]) for name in before} == before
    allowed = (places["tmp"], places["notes"], Path("/dev"), Path("/proc"))
    return [
        path
        for path in touched
        if not any(path.is_relative_to(place) for place in allowed)
        and not (path.parent.name == "__pycache__" and path.is_relative_to(PACKAGE))
    ]


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_run_touches_its_folder_and_the_temporary_one(places, tmp_path, ranks):
    """On four ranks with a home that nobody can write to, not even a superuser."""
    out, model = tmp_path / "out", f"{places['mine']}/net.py:factory"
    given = ["sample", "--steps", 4, "--slices", 4, "--samples", 2, "--stream", "--out", out]
    given += ["--tolerance", 0, *(["--model", model] if ranks > 1 else [])]
    home = "/dev/null/home" if ranks > 1 else None
    outside = walled_launch(places, *given, ranks=ranks, home=home)
    assert [path for path in outside if not path.is_relative_to(out)] == []
    assert {path.name for path in out.iterdir()} >= {"samples.png", "stream", "parts", "run.h5"}
    with h5py.File(out / "run.h5") as run:
        assert np.isfinite(run["samples"][:]).all()


def test_the_walls_stand(places, tmp_path):
    """A network that is asked for is an error, and a file in the home is seen."""
    net = places["mine"] / "net.py"
    net.write_text(
        FACTORY + "import os, socket\n"
        "open(os.path.expanduser('~/cache'), 'w').close()\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80), timeout=1)\n"
        "except OSError as error:\n    print(error)\n"
    )
    given = ["sample", "--model", f"{net}:factory", "--steps", 4, "--samples", 1, "--out"]
    with pytest.raises(AssertionError, match="home/cache"):
        walled_launch(places, *given, tmp_path / "out")
