"""A run that ended anywhere goes on to the bits of one that was not disturbed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.launch import launch, ranks_of, start

from pint_diffusion.commands.cli import main
from pint_diffusion.report.inspection import inspect_run
from pint_diffusion.store.manifest import Manifest
from pint_diffusion.store.master import read_run
from pint_diffusion.store.part import PartName

EMULATED = Path(__file__).parents[2] / "jobs" / "emulated.py"
COUNTS = ["--steps", 32, "--slices", 8, "--samples", 2, "--batching", "off", "--tolerance", 1e-6]
SLOW = {"EMULATED_MS": "20"}
FAST = {"EMULATED_MS": "0"}
KILLS, KILLS_EACH = int(os.environ.get("KILLS", "20")), 4


def sample(folder, *more, model=f"{EMULATED}:factory", ranks=1, environment=FAST):
    given = ["sample", "--model", model, *COUNTS, "--out", folder, *more]
    return launch(*given, ranks=ranks, environment=environment)


def resume(folder, *more, ranks=1):
    return launch("resume", folder, *more, ranks=ranks, environment=FAST)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as here:
        here.setenv("EMULATED_MS", "0")
        given = ["--model", f"{EMULATED}:factory", *COUNTS, "--out", folder]
        assert main(["sample", *map(str, given)]) == 0
    return read_run(folder)


def begin(folder, given, ranks=4):
    """Start a slow run, or resume one, and wait until it has begun."""
    master = folder / "run.h5"
    before = master.stat().st_ino if master.exists() else 0
    process = start(*given, ranks=ranks, environment=SLOW)
    deadline = time.monotonic() + 120
    while not master.exists() or master.stat().st_ino == before:
        assert time.monotonic() < deadline, "the run did not begin"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def finish(process):
    out, err = process.communicate(timeout=30)
    return process.returncode, out + err


def check(folder, undisturbed, keep="boundary"):
    record = read_run(folder)
    assert record.facts["status"] == "finished"
    assert np.array_equal(record.samples, undisturbed.samples)
    assert np.array_equal(record.change, undisturbed.change)
    assert np.array_equal(record.stopped_at, undisturbed.stopped_at)
    if keep == "boundary":
        assert np.array_equal(record.boundary, undisturbed.boundary)


@pytest.mark.alone
@pytest.mark.parametrize(("ranks", "again"), [(1, 2), (4, 3)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_every_rank_with_code_75_and_the_run_goes_on(
    tmp_path, undisturbed, number, ranks, again
):
    given = ["sample", "--model", f"{EMULATED}:factory", *COUNTS, "--out", tmp_path / "run"]
    process = begin(tmp_path / "run", given, ranks)
    time.sleep(0.6)
    os.kill(ranks_of(tmp_path / "run")[-1], number)
    code, said = finish(process)
    assert code == 75, said
    assert "pint-diffusion resume" in said
    assert Manifest.read(tmp_path / "run").rows
    ended = resume(tmp_path / "run", ranks=again)
    assert ended.code == 0, ended
    check(tmp_path / "run", undisturbed)


@pytest.mark.alone
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_signal_while_the_sequential_sampler_verifies_ends_a_run_that_is_finished(
    tmp_path, ranks
):
    """Every rank hears it: those that wait for rank 0 too."""
    given = ["sample", "--model", f"{EMULATED}:factory", "--steps", 100, "--samples", 2, "--verify"]
    given += ["--method", "window", "--window", 100, "--tolerance", 100, "--batching", "auto"]
    process = begin(tmp_path / "run", [*given, "--out", tmp_path / "run"], ranks)
    deadline = time.monotonic() + 60
    while inspect_run(tmp_path / "run").facts.get("iterations", 0) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    for rank in ranks_of(tmp_path / "run"):
        os.kill(rank, signal.SIGUSR1)
    code, said = finish(process)
    assert code == 0, said
    assert "a signal ended the sequential sampler of --verify" in said
    record = read_run(tmp_path / "run")
    assert record.facts["status"] == "finished"
    assert record.sequential is None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--tolerance", 0.01], "--tolerance is 0.01, but the run in {} has 0.1"),
        (["--tolerance", 0.1], None),
    ],
)
def test_of_a_method_in_rounds_the_tolerance_stays(tmp_path, monkeypatch, capfd, given, named):
    monkeypatch.setenv("EMULATED_MS", "0")
    run = ["--model", f"{EMULATED}:factory", "--steps", 24, "--samples", 2]
    run += ["--method", "paradigms", "--window", 4, "--max-iterations", 2]
    folder = tmp_path / "run"
    assert main(["sample", *map(str, [*run, "--out", folder])]) == 3
    said = capfd.readouterr().out
    assert "(24 are always enough)." in said
    code = main(["resume", str(folder), "--max-iterations", "24", *map(str, given)])
    assert code == (2 if named else 0)
    assert (named or "").format(folder) in capfd.readouterr().err


@pytest.mark.timeout(900)
@pytest.mark.parametrize("trial", range(KILLS // KILLS_EACH))
def test_a_run_that_is_killed_again_and_again_goes_on_on_any_number_of_ranks(
    tmp_path, undisturbed, monkeypatch, trial
):
    """A start or a resume ends in the next kill; the last resume is let go on."""
    draw = np.random.default_rng(trial)
    folder = tmp_path / "run"
    keep = str(draw.choice(["boundary", "final"]))
    given = ["sample", "--model", f"{EMULATED}:factory", *COUNTS, "--out", folder, "--keep", keep]
    if keep == "final":
        given += ["--checkpoint-every", draw.choice([0, 0.1, 0.4])]
    for kill in range(KILLS_EACH):
        placement = ["--placement", draw.choice(["root", "slice"])]
        process = begin(folder, given + placement, ranks=int(draw.integers(1, 5)))
        time.sleep(draw.uniform(0, 1.2))
        ranks = ranks_of(folder)
        for rank in ranks if draw.random() < 0.5 else draw.permutation(ranks)[:1]:
            with contextlib.suppress(ProcessLookupError):  # it was done already
                os.kill(int(rank), signal.SIGKILL)
        code, said = finish(process)
        print(f"kill {kill}: code {code} of {len(ranks)}, rows {list(Manifest.read(folder).rows)}")
        assert "error" not in said.lower().replace("terminat", ""), said
        given = ["resume", folder]
    monkeypatch.setenv("EMULATED_MS", "0")
    assert main(["resume", str(folder)]) == 0
    check(folder, undisturbed, keep)


@pytest.fixture
def part_way(tmp_path):
    """A run of four iterations on two ranks that asks for more."""
    folder = tmp_path / "run"
    assert sample(folder, "--max-iterations", 4, ranks=2).code == 3
    return folder


def test_a_finished_run_can_be_asked_for_more(part_way, undisturbed):
    ended = resume(part_way, "--max-iterations", 8, ranks=3)
    assert ended.code == 0, ended
    assert "went on after iteration 4" in ended.out
    check(part_way, undisturbed)


@pytest.mark.parametrize("harm", ["missing", "torn", "changed"])
def test_a_part_that_is_not_whole_is_said_and_the_iteration_before_is_taken(
    part_way, undisturbed, harm
):
    part = next((part_way / "parts").glob("00-0004-0001-a-*"))
    content = part.read_bytes()
    changed = {"torn": content[:-100], "changed": content[:2000] + b"?" + content[2001:]}
    part.unlink() if harm == "missing" else part.write_bytes(changed[harm])
    ended = resume(part_way, "--max-iterations", 8, ranks=2)
    assert ended.code == 0, ended
    assert part.name in ended.err
    assert "went on after iteration 3" in ended.out
    check(part_way, undisturbed)


def test_a_run_with_no_whole_iteration_begins_anew(part_way, undisturbed):
    for part in (part_way / "parts").glob("*-b-*"):
        part.unlink()
    ended = resume(part_way, "--max-iterations", 8)
    assert ended.code == 0, ended
    assert "began anew" in ended.out
    check(part_way, undisturbed)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--seed", 5], "--seed is 5, but the run"),
        (["--solver", "euler"], "--solver is euler, but the run"),
        (["--steps", 40], "--steps is 40, but the run"),
        (["--spacing", "karras"], "--spacing is karras, but the run"),
        (["--samples", 3], "--samples is 3, but the run"),
        (["--dtype", "float64"], "--dtype is float64, but the run"),
        (["--model", "gmm:nowhere.npz"], "--model is gmm:nowhere.npz, but the run"),
        (["--nonsense"], "--nonsense"),
        (["--out", "elsewhere"], "takes no --out"),
        (["--force"], "takes no --force"),
        (["--config", "nowhere.yaml"], "takes no --config"),
    ],
    ids=str,
)
def test_another_run_is_refused_by_the_name_of_the_difference(part_way, capfd, given, named):
    assert main(["resume", str(part_way), *map(str, given)]) == 2
    assert named in capfd.readouterr().err
    assert max(Manifest.read(part_way).rows) == 4


def test_another_network_under_the_same_name_is_refused(tmp_path, capfd):
    rng = np.random.default_rng(0)
    arrays = {"means": rng.normal(size=(2, 3)), "variances": np.ones(2), "weights": np.full(2, 0.5)}
    np.savez(tmp_path / "m.npz", **arrays)
    given = ["--model", f"gmm:{tmp_path}/m.npz", "--steps", "16", "--out", str(tmp_path / "run")]
    assert main(["sample", *given]) == 0
    arrays["means"][0, 0] += 1e-3
    np.savez(tmp_path / "m.npz", **arrays)
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "the network is not the one of the run" in capfd.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path, capfd):
    assert main(["resume", str(tmp_path)]) == 2
    assert main(["resume"]) == 2
    assert "holds no run" in capfd.readouterr().err


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddpm", "unipc_3"])
def test_history_and_noise_come_back_too(tmp_path, monkeypatch, solver):
    monkeypatch.setenv("EMULATED_MS", "0")
    given = ["--solver", solver, "--dtype", "float64", "--slices", 8, "--samples", 2]
    given += ["--model", f"{EMULATED}:factory", "--steps", 24, "--batching", "off"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    most = ["--tolerance", 1e-12]
    assert main(["sample", *map(str, [*given, *most, "--out", whole])]) == 0
    assert main(["sample", *map(str, [*given, *most, "--out", parts, "--max-iterations", 3])]) == 3
    assert main(["resume", str(parts), "--max-iterations", "8", "--placement", "slice"]) == 0
    check(parts, read_run(whole))


@pytest.mark.parametrize("division", [["--slicing", "logsnr"], ["--bounds", "0,3,7,20,24"], []])
def test_a_run_is_gone_on_with_twice_in_the_slices_that_it_has(tmp_path, monkeypatch, division):
    monkeypatch.setenv("EMULATED_MS", "0")
    given = ["--model", f"{EMULATED}:factory", "--steps", 24, "--batching", "off", "--samples", 2]
    given += ["--tolerance", 0, *division, *([] if "--bounds" in division else ["--slices", 4])]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["sample", *map(str, [*given, "--out", whole])]) == 0
    assert main(["sample", *map(str, [*given, "--out", parts, "--max-iterations", 1])]) == 3
    assert main(["resume", str(parts), "--max-iterations", "2"]) == 3
    assert main(["resume", str(parts), "--max-iterations", "4"]) == 0
    check(parts, read_run(whole))


@pytest.mark.parametrize("numbers", [(0, 0, 0), (99, 9999, 9999), (100, 10000, 10000)], ids=str)
def test_the_name_of_a_part_says_what_it_was_given_however_great(numbers):
    name = PartName(*numbers, "a", "0123456789abcdef")
    assert PartName.parse(str(name)) == name
