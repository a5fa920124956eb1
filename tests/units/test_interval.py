"""Checkpoints every so many seconds: the same iterations on all ranks, the newest at the end."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.launch import ranks_of, start

from pint_diffusion.commands.cli import main
from pint_diffusion.report.inspection import inspect_run
from pint_diffusion.runtime.events import EventLog
from pint_diffusion.store import folder as store_folder
from pint_diffusion.store import writer as store_writer
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.manifest import Manifest, parts_of
from pint_diffusion.store.master import read_run
from pint_diffusion.store.names import PARTS
from pint_diffusion.store.writer import Writer

CPU = torch.device("cpu")
EMULATED = Path(__file__).parents[2] / "jobs" / "emulated.py"
WALK = ["--model", f"{EMULATED}:factory", "--steps", 32, "--samples", 2]
WALK += ["--batching", "off", "--tolerance", 1e-6]
SLICES = ["--slices", 8]
RUN = [*WALK, *SLICES]
FINAL = [*RUN, "--keep", "final", "--checkpoint-every"]


def pint(command, *given):
    return main([command, *map(str, given)])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    os.environ["EMULATED_MS"] = "0"
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert pint("sample", *RUN, "--out", folder) == 0
    del os.environ["EMULATED_MS"]
    return read_run(folder)


@pytest.fixture
def written(monkeypatch):
    """Iterations whose parts were written."""
    ks = []

    def write_part(folder, run, segment, k, *rest):
        ks.append(k)
        return writes(folder, run, segment, k, *rest)

    writes = store_writer.write_part
    monkeypatch.setattr(store_writer, "write_part", write_part)
    return ks


@pytest.mark.parametrize("method", [SLICES, ["--method", "paradigms"]], ids=["slices", "rounds"])
@pytest.mark.parametrize("seconds", [None, 0, 0.2, 1e6])
def test_iterations_are_written_so_many_seconds_apart_and_the_last_one_is(
    tmp_path, monkeypatch, written, seconds, method
):
    monkeypatch.setenv("EMULATED_MS", "5" if seconds == 0.2 else "0")
    told = []

    def decided(self, k, write):
        told.append((k, write, time.monotonic()))
        return decides(self, k, write)

    decides = store_folder.Files.decided
    monkeypatch.setattr(store_folder.Files, "decided", decided)
    assert (
        pint(
            "sample",
            *WALK,
            *method,
            "--keep",
            "final",
            *([] if seconds is None else ["--checkpoint-every", seconds]),
            "--out",
            tmp_path / "run",
        )
        == 0
    )
    record = read_run(tmp_path / "run")
    last = record.facts["iterations"]
    asked = [k for k, write, _ in told if write]
    if seconds == 0 or (seconds is None and method == SLICES):
        assert told == []
        assert set(written) >= set(range(last + 1))
    else:
        assert [k for k, *_ in told] == list(range(last + 1))
        times = [at for _, write, at in told if write]
        if seconds is None:  # of rounds as many as a fifth of the time is enough for
            assert asked[0] == 0
        else:
            assert all(b - a >= seconds - 0.05 for a, b in itertools.pairwise(times))
            assert asked if seconds < 1 else not asked
        assert {k for k in written if k < last - 1} <= set(asked)
    assert last in written
    assert max(map(written.count, written)) <= 2  # the states of the slices, and the answer
    assert Manifest.read(tmp_path / "run").newest([]) == last


@pytest.mark.parametrize("seconds", [0.15, 1e6])
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_signal_leaves_the_newest_iteration_on_disk(
    tmp_path, undisturbed, monkeypatch, capfd, ranks, seconds
):
    folder = tmp_path / "run"
    given = ["sample", *FINAL, seconds, "--out", folder]
    process = start(*given, ranks=ranks, environment={"EMULATED_MS": str(10 * ranks)})
    deadline = time.monotonic() + 60
    while not (folder / "manifest.json").exists():
        assert time.monotonic() < deadline, "the run did not begin"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    time.sleep(1.2)
    os.kill(ranks_of(folder)[-1], signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 75, out + err
    found = inspect_run(folder)
    assert found.whole
    reached = len(found.change)
    assert reached > 0
    assert found.manifest.newest([]) == reached
    monkeypatch.setenv("EMULATED_MS", "0")
    assert pint("resume", folder) == 0
    assert f"went on after iteration {reached}" in capfd.readouterr().out
    record = read_run(folder)
    assert np.array_equal(record.samples, undisturbed.samples)
    assert np.array_equal(record.change, undisturbed.change)


def test_an_iteration_that_the_manifest_does_not_name_yet_is_gone_on_with(
    tmp_path, monkeypatch, capfd
):
    """A run that was killed right after the last part of an iteration was written."""
    monkeypatch.setenv("EMULATED_MS", "0")
    folder = tmp_path / "run"
    assert pint("sample", *RUN, "--max-iterations", 4, "--out", folder) == 3
    manifest = Manifest.read(folder)
    del manifest.rows[3], manifest.rows[4]
    manifest.write()
    assert 4 in inspect_run(folder).manifest.rows
    assert pint("resume", folder, "--max-iterations", 5) == 3
    assert "went on after iteration 4" in capfd.readouterr().out
    manifest = Manifest.read(folder)
    del manifest.rows[5]
    manifest.write()
    for part in parts_of(folder):
        if part.k == 5 and part.group == "a":
            (folder / PARTS / str(part)).unlink()
    assert 5 not in inspect_run(folder).manifest.rows


@pytest.mark.parametrize("order", ["before", "after", "between"])
@pytest.mark.parametrize("retires", [True, False])
def test_a_rank_writes_what_was_decided_whenever_it_hears_of_it(tmp_path, order, retires):
    """And forgets what was not, but for the last; at the end it writes what it still knows."""
    (tmp_path / PARTS).mkdir()
    writer = Writer(
        Directory.of(tmp_path), "run", 0, 1, [1, 3], retires, EventLog(1), 0, False, CPU
    )
    for k in range(6):
        mine = [n for n in (1, 3) if n >= k or not retires]
        early = {"before": 0, "after": len(mine), "between": 1}[order]
        for n in mine[:early]:
            writer.record(n, k, torch.full((1, 1, 2), float(k)))
        if k < 5:
            writer.decided(k, k == 2)
        for n in mine[early:]:
            writer.record(n, k, torch.full((1, 1, 2), float(k)))
    writer.close()
    ks = {part.k for part in parts_of(tmp_path)}
    assert ks == {2, 3} if retires else {2, 3, 4, 5}


def test_an_interval_needs_keep_final(tmp_path, capfd):
    assert pint("sample", *RUN, "--checkpoint-every", 5, "--out", tmp_path / "run") == 2
    assert "--checkpoint-every 5 leaves iterations out" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
