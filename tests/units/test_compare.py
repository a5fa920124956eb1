"""The comparison: its counts, its tuning, and what it says of device counts."""

from __future__ import annotations

import csv
import json
from math import inf
from pathlib import Path

import pytest
from helpers import networks

from pint_diffusion.commands.cli import main
from pint_diffusion.commands.compare.command import compare
from pint_diffusion.commands.compare.entries import FAMILIES
from pint_diffusion.errors import StoreError
from pint_diffusion.methods import METHODS
from pint_diffusion.methods.times import chords_on, parareal_on, rounds_on
from pint_diffusion.models import load_denoiser
from pint_diffusion.report.bound import dataflow_bound
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.settings.compare import Compare

FLAT = {1: 1.0, 1000: 1.0}
FAIR = {1: 1.0, 2: 2.0}


@pytest.fixture
def given(mixture_file, tmp_path):
    return {
        "model": f"gmm:{mixture_file}", "dtype": "float64", "batching": "off", "samples": 2,
        "steps": 16, "slices": 8, "devices": (8, 16), "out": tmp_path / "out",
    }  # fmt: skip


def test_every_method_is_compared():
    made = [entry for family in FAMILIES.values() for entry in family((4,), 16, {})]
    assert {entry.method.name for entry in made} == METHODS.keys()


def test_every_entry_is_brought_to_the_error_and_counts_are_the_same_on_any_ranks(world, given):
    given = world.share(given)
    rows = compare(Compare(**given, target=1e-3), world)
    tuned = [row for row in rows if row.rule == "equal error"]
    assert len(tuned) == len({row.name for row in rows}) - 1  # but for the sequential one
    for row in tuned:
        assert row.measured is not None, row.name
        assert row.measured.error <= 1e-3
    if world.rank == 0:
        told = json.loads((given["out"] / "compare.json").read_text())
        with (given["out"] / "compare.csv").open() as file:
            names = [line["method"] for line in csv.DictReader(file)]
        assert names == [row["method"] for row in told["rows"]] == [row.name for row in rows]
    if world.size > 1:
        assert all(row.measured.bytes > 0 for row in tuned)


def test_an_entry_has_the_placement_in_its_name(given):
    rows = compare(Compare(**given, methods=("srds",)), LocalWorld())
    drawn = {row.name: bool(row.on_devices) for row in rows if row.name.startswith("SRDS, ")}
    assert drawn == {"SRDS, not pipelined": False, "SRDS, root": False, "SRDS, slice": True}


def test_the_network_is_loaded_once_and_the_table_is_printed_once(given, monkeypatch, capfd):
    loaded = []

    def load(*given):
        loaded.append(given)
        return load_denoiser(*given)

    monkeypatch.setattr("pint_diffusion.build.from_settings.load_denoiser", load)
    rows = compare(Compare(**given, methods=("window",)), LocalWorld())
    said = capfd.readouterr()
    assert len(loaded) == 1
    assert said.out.count("worst sample") == 1
    for row in rows:
        assert sum(line.startswith(row.name) for line in said.out.splitlines()) == 2 - (
            row.name == "sequential"
        )
        assert "equal error" not in said.err


def test_the_worst_sample_is_no_nearer_than_all_together(given):
    rows = compare(Compare(**given | {"samples": 4}, methods=("paradigms",)), LocalWorld())
    for row in rows:
        assert row.measured.error <= row.measured.worst_sample
    assert any(row.measured.error < row.measured.worst_sample for row in rows)


def test_coarse_settings_are_ignored_by_methods_without_coarse_solves(given):
    settings = Compare(**given, coarse={"steps": 2}, methods=("window", "srds"))
    assert {row.name.split(",")[0] for row in compare(settings, LocalWorld())} == {
        "sequential", "window", "SRDS",
    }  # fmt: skip


def test_settings_are_printed_and_read_back_and_nothing_is_run(given, tmp_path, capfd):
    flags = ["--model", given["model"], "--out", str(given["out"]), "--print-config"]
    assert main(["compare", *flags, "--target", "0.02", "--methods", "srds", "--devices", "3"]) == 0
    told = capfd.readouterr().out
    assert "target: 0.02" in told
    (tmp_path / "told.yaml").write_text(told)
    assert main(["compare", "--config", str(tmp_path / "told.yaml"), "--print-config"]) == 0
    assert capfd.readouterr().out == told
    assert not given["out"].exists()


def test_an_answer_of_zeros_can_be_compared_with(given, capfd):
    """There is no relative error but 0 and infinity."""
    body = Path(networks.__file__)
    rows = compare(
        Compare(**given | {"model": f"{body}:zeros", "methods": ("window",)}), LocalWorld()
    )
    errors = {row.measured.error for row in rows if row.rule == "own"}
    assert errors <= {0, inf}


def test_the_first_entry_is_exact_and_as_long_as_the_walk(given):
    first = compare(Compare(**given, methods=("srds",)), LocalWorld())[0]
    assert (first.measured.error, first.measured.deep, first.measured.evaluations) == (0, 16, 16)


@pytest.mark.parametrize(("coarse", "shared"), [(1, True), (1, False), (2, False)])
@pytest.mark.parametrize(("slices", "steps", "k"), [(4, 4, 2), (8, 8, 3), (5, 3, 5), (6, 2, 3)])
def test_parareal_on_devices_is_the_bound_or_the_work(slices, steps, k, coarse, shared):
    walks = [steps] * slices, [coarse] * slices
    bound = dataflow_bound(*walks, k)
    assert parareal_on(*walks, shared, k, slices, FLAT) == bound
    assert parareal_on(*walks, shared, k, 10**12, FLAT) == bound
    fine_solves = sum(min(n + 1, k) for n in range(slices))
    coarse_solves = sum(min(n, k) + 1 for n in range(slices))
    more = coarse_solves * coarse - shared * fine_solves
    assert parareal_on(*walks, shared, k, 1, FAIR) <= fine_solves * steps + more
    times = [parareal_on(*walks, shared, k, devices, FAIR) for devices in (1, 2, slices)]
    assert times[0] == max(times)


@pytest.mark.parametrize("method", ["window", "paradigms", "piadm"])
def test_the_stages_of_a_step_follow_one_another(world, given, method):
    """Also where samples are at different points; the last step of Heun has one stage."""
    given = world.share(given)
    given |= {"solver": "heun", "methods": (method,)}
    rows = [row for row in compare(Compare(**given), world) if row.name != "sequential"]
    for row in rows:
        found = row.measured
        assert len(found.in_a_row) == found.deep
        assert sum(found.in_a_row) == found.evaluations
        assert rounds_on(found.in_a_row, 10**12, FLAT) == found.deep


@pytest.mark.parametrize(("starts", "k"), [((0,), 1), ((0, 4, 9), 0), ((0, 4, 9), 1), ((0, 2), 2)])
def test_chords_on_devices_is_the_chain_or_the_work(starts, k):
    """A core that begins c ticks late at t_c is done after c + N - t_c; before, all others step."""
    chain = len(starts) - k + 20 - (*starts, 20)[len(starts) - k]
    assert chords_on(starts, 20, k, len(starts), FAIR) == chain
    work = sum(min(20 - start, chain - c) for c, start in enumerate(starts))
    assert chords_on(starts, 20, k, 1, FAIR) == work


def test_rounds_are_shared_out_over_devices():
    assert rounds_on([8, 3, 0, 1], 1, FAIR) == 12
    assert rounds_on([8, 3, 0, 1], 4, FAIR) == 2 + 1 + 1
    assert rounds_on([8, 3, 0, 1], 4, FLAT) == 3


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--methods", "magic"], "--methods has 'magic'"),
        (["--tolerance", "1"], "unrecognized argument: --tolerance"),
        (["--window", "3"], "unrecognized argument: --window"),
        (["--target", "0"], "--target"),
        (["--method", "window"], "unrecognized argument: --method;"),
    ],
)
def test_bad_input_is_one_sentence(given, flags, named, capfd):
    code = main(["compare", "--model", given["model"], "--out", str(given["out"]), *flags])
    assert code == 2
    said = capfd.readouterr().err
    assert named in said
    assert len(said.splitlines()) == 1


def test_a_folder_that_is_not_empty_is_refused(given):
    given["out"].mkdir()
    (given["out"] / "mine").write_text("")
    assert main(["compare", "--model", given["model"], "--out", str(given["out"])]) == 2


def test_a_comparison_of_nothing_is_bad_input(given, capfd):
    """One that leaves out some methods is not."""
    out = str(given["out"])
    common = ["compare", "--model", given["model"], "--out", out, "--steps", "8", "--samples", "1"]
    multistep = [*common, "--solver", "dpmpp_2m", "--force", "--methods"]
    assert main([*multistep, "paradigms"]) == 2
    assert "one-step solver" in capfd.readouterr().err.splitlines()[-1]
    assert main([*multistep, "paradigms,window"]) == 0


def test_files_that_can_not_be_written_are_an_error_in_a_sentence(given, capfd, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pint_diffusion.commands.compare.command.write_files", full)
    with pytest.raises(StoreError, match="could not be written: No space left"):
        compare(Compare(**given, methods=("window",)), LocalWorld())
