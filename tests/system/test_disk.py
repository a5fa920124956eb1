"""A full disk: one message, an end, a master with the cause, and a run that can be resumed."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import networks
from helpers.disk import mounting
from helpers.launch import launch

from pint_diffusion.commands import sample
from pint_diffusion.commands.cli import main
from pint_diffusion.report.inspection import inspect_run
from pint_diffusion.store.folder import Files
from pint_diffusion.store.master import read_run
from pint_diffusion.store.names import RESERVE

NETWORKS = Path(networks.__file__)
RUN = ["--model", f"{NETWORKS}:large", "--steps", 32, "--slices", 8, "--samples", 2]
RUN += ["--batching", "off", "--tolerance", 1e-9]
STATE = 2 * 64 * 64 * 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(["sample", *map(str, RUN), "--out", str(folder)]) == 0
    return read_run(folder)


@pytest.fixture
def disk(tmp_path):
    """Make a file system of so many bytes."""
    with mounting(tmp_path / "disk") as mount:
        yield mount


def errors(said):
    return [line for line in said.splitlines() if "error" in line]


@pytest.mark.alone
@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("states", [21, 40])
def test_a_disk_that_fills_up_ends_every_rank_with_one_message_and_the_run_goes_on_once_it_is_free(
    disk, undisturbed, ranks, states
):
    at = disk(states * STATE)
    folder = at / "run"
    ended = launch("sample", *RUN, "--out", folder, ranks=ranks, program=TIMED)
    assert ended.code == 1, ended
    said = errors(ended.err)
    assert len(said) == 1, ended.err
    assert re.search(
        r"rank \d on \S+: iteration \d of (slices [\d, ]+|the answer) could not be written to "
        rf"{folder}: No space left on device|rank 0 on \S+: files could not be written",
        said[0],
    )
    assert "Traceback" not in ended.err
    assert "egmentation" not in ended.err
    assert float(re.search(r"ended ([\d.]+) s after the first failure", ended.err)[1]) < 10
    with h5py.File(folder / "run.h5") as run:
        assert run.attrs["status"].startswith("failed: rank ")
        assert "No space left on device" in run.attrs["status"]
    assert not (folder / RESERVE).exists()
    assert list(folder.rglob("*.new")) == []
    found = inspect_run(folder)
    assert found.whole
    reached = found.manifest.newest([])
    # Of 21 states the first answer may find no room, if rank 0 writes later than the others.
    assert reached is not None or (states == 21 and ranks > 1)
    subprocess.run(["mount", "-o", f"remount,size={1000 * STATE}", at], check=True)
    assert main(["resume", str(folder)]) == 0
    record = read_run(folder)
    assert record.facts["resumed_after"] == (-1 if reached is None else reached)
    assert np.array_equal(record.samples, undisturbed.samples)
    assert np.array_equal(record.boundary, undisturbed.boundary)


TIMED = [
    "-c",
    "import sys, time; from pint_diffusion.store.directory import Directory; failed = []\n"
    "def replace(*given, inner=Directory.replace, **named):\n"
    "    try: inner(*given, **named)\n"
    "    except OSError: failed.append(time.monotonic()); raise\n"
    "Directory.replace = replace\n"
    "from pint_diffusion.commands.cli import main\n"
    "code = main(sys.argv[1:])\n"
    "if failed: print(f'ended {time.monotonic() - failed[0]} s after the first failure', "
    "file=sys.stderr)\n"
    "sys.exit(code)",
]


def test_a_disk_that_is_full_before_the_run_is_bad_input(disk, capfd):
    at = disk(4 * STATE)
    (at / "other").write_bytes(bytes(3 * STATE + 4096))
    assert main(["sample", *map(str, RUN), "--out", str(at / "run")]) == 2
    assert len(errors(capfd.readouterr().err)) == 1


@pytest.mark.parametrize("when", ["finish", "pictures"])
def test_a_disk_that_is_full_when_the_answer_is_there_loses_nothing(
    disk, undisturbed, monkeypatch, capfd, when
):
    """The reserve is enough to record that the run is finished; pictures can be drawn later."""
    at = disk(200 * STATE)
    folder = at / "run"

    def fill():
        block = 4096
        with open(at / "other", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(block))
            except OSError:
                pass

    if when == "finish":
        finishes = Files._write_result
        monkeypatch.setattr(Files, "_write_result", lambda *given: (fill(), finishes(*given)))
    else:
        reads = sample.read_run
        monkeypatch.setattr(sample, "read_run", lambda folder: (reads(folder), fill())[0])
    code = main(["sample", *map(str, RUN), "--out", str(folder)])
    said = errors(capfd.readouterr().err)
    if when == "finish" and code == 0:  # what was held back has room for the pictures too
        assert said == []
    else:
        assert code == 1
        assert len(said) == 1
        assert "the run is complete, but its pictures could not be written" in said[0]
    record = read_run(folder)
    assert record.facts["status"] == "finished"
    assert np.array_equal(record.boundary, undisturbed.boundary)
    (at / "other").unlink()
    assert main(["export", str(folder)]) == 0


@pytest.mark.alone
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_that_can_not_write_ends_the_run_though_it_makes_no_state_for_long(tmp_path, ranks):
    """A walk over a slice takes 40 s here; the failure is noticed at the next call."""
    act = (
        "import os, sys; from pint_diffusion.commands.cli import main; "
        "from pint_diffusion.store import writer; "
        "full = lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')); "
        "writer.write_part = full; sys.exit(main(sys.argv[1:]))"
    )
    given = ["--model", f"{NETWORKS}:slow", "--steps", 800, "--slices", 2]
    begun = time.monotonic()
    ended = launch("sample", *given, "--out", tmp_path / "run", ranks=ranks, program=["-c", act])
    assert ended.code == 1, ended
    assert len(errors(ended.err)) == 1
    assert time.monotonic() - begun < 40
