"""What a job leaves behind, through the command line as a user starts it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import yaml
from helpers.launch import launch

from pint_diffusion import __version__
from pint_diffusion.errors import InputError
from pint_diffusion.store.master import read_run


@pytest.fixture
def sample(mixture_file, tmp_path):
    def sample(*arguments, ranks=1, out="run"):
        given = ["--model", f"gmm:{mixture_file}", "--dtype", "float64", "--batching", "off"]
        ended = launch("sample", *given, "--out", tmp_path / out, *arguments, ranks=ranks)
        return ended, tmp_path / out

    return sample


COUNTS = ["--steps", 48, "--slices", 8, "--samples", 3]


@pytest.mark.parametrize("placement", ["root", "slice"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_files_of_a_run_are_complete_and_the_same_on_any_rank_count(sample, placement, ranks):
    ended, out = sample(*COUNTS, "--placement", placement, "--verify", ranks=ranks)
    assert ended.code == 0, ended
    alone, reference = sample(*COUNTS, "--placement", "root", out="alone")
    assert alone.code == 0
    found, expected = read_run(out), read_run(reference)
    iterations = found.facts["iterations"]
    assert found.boundary.shape == (iterations + 1, 9, 3, 1, 3, 2)
    assert np.isfinite(found.boundary).all()
    assert np.array_equal(found.boundary, expected.boundary)
    assert np.array_equal(found.samples, expected.samples)
    assert np.array_equal(found.change, expected.change)
    assert np.array_equal(found.samples, found.boundary[-1, -1])
    assert found.facts["evaluations_deep"] == expected.facts["evaluations_deep"]
    assert found.facts["ranks"] == ranks == len(found.facts["hosts"])
    assert found.facts["status"] == "finished"
    assert set(found.events["rank"]) == set(range(ranks))
    assert (found.events["stop"] >= found.events["start"]).all()
    assert np.abs(found.samples - found.sequential).mean() * 127.5 < 0.1
    assert {path.name for path in out.iterdir()} == {
        "run.h5", "manifest.json", "parts", "samples.png", "refinement.png", "wavefront.png",
        *(f"events-00-{rank:04d}.h5" for rank in range(ranks)),
    }  # fmt: skip


def test_the_folder_of_a_run_can_be_moved(sample, tmp_path):
    _, out = sample(*COUNTS)
    before = read_run(out)
    moved = out.rename(tmp_path / "elsewhere")
    assert np.array_equal(read_run(moved).boundary, before.boundary)


def test_a_missing_or_changed_part_is_an_error_and_not_fill_values(sample):
    _, out = sample(*COUNTS, ranks=2)
    part = max((out / "parts").glob("00-0001-0001-a-*.h5"))
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{part.name} is torn or was changed"):
        read_run(out)
    part.unlink()
    with pytest.raises(InputError, match=f"{part.name} is missing"):
        read_run(out)


def test_the_master_says_everything_that_is_needed_to_run_again(sample, tmp_path):
    _, out = sample(*COUNTS, "--seed", 5)
    record = read_run(out)
    config = tmp_path / "again.yaml"
    config.write_text(yaml.safe_dump(record.config))
    ended = launch("sample", "--config", config, "--out", tmp_path / "again")
    assert ended.code == 0, ended
    assert np.array_equal(read_run(tmp_path / "again").boundary, record.boundary)
    for name in ("versions", "mpi_library", "hosts", "devices", "seed", "wall_time", "evaluations"):
        assert name in record.facts
    assert f"pint-diffusion {__version__}" in record.facts["versions"]


def test_flags_override_the_config_file_and_print_config_shows_the_result(tmp_path):
    config = tmp_path / "c.yaml"
    method = "{placement: slice, name: parareal, slices: 6}"
    config.write_text(f"steps: 30\nsamples: 2\nmethod: {method}\nbatching: off\n")
    ended = launch("sample", "--config", config, "--steps", 40, "--slices", 5, "--print-config")
    shown = yaml.safe_load(ended.out)
    assert ended.code == 0
    assert (shown["steps"], shown["samples"], shown["method"]["placement"]) == (40, 2, "slice")
    assert shown["method"]["slices"] == 5
    assert shown["batching"] == "off"


def test_an_environment_variable_is_no_setting():
    ended = launch("sample", "--print-config", environment={"STEPS": "7", "MODEL": "x"})
    assert yaml.safe_load(ended.out)["steps"] != 7


def test_keep_final_keeps_the_samples_and_no_boundary_states(sample):
    ended, out = sample(*COUNTS, "--keep", "final", ranks=2)
    _, full = sample(*COUNTS, out="full")
    assert ended.code == 0, ended
    with h5py.File(out / "run.h5") as file:
        assert "boundary" not in file
    assert np.array_equal(read_run(out).samples, read_run(full).samples)


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_tolerance_that_was_not_reached_is_said_and_exit_code_3(sample, ranks):
    ended, out = sample(*COUNTS, "--max-iterations", 2, "--tolerance", 1e-9, ranks=ranks)
    assert ended.code == 3, ended
    assert "NOT CONVERGED" in ended.out
    assert read_run(out).facts["status"] == "not converged"


def test_force_overwrites_the_old_run_and_nothing_else(sample):
    _, out = sample(*COUNTS, ranks=4)
    (out / "notes.txt").write_text("mine")
    ended, _ = sample(*COUNTS, "--force", ranks=1)
    assert ended.code == 0, ended
    assert (out / "notes.txt").read_text() == "mine"
    assert [path.name for path in out.glob("events-*")] == ["events-00-0000.h5"]
    assert {path.name[8:12] for path in (out / "parts").iterdir()} == {"0000"}


def test_export_draws_the_pictures_again(sample, tmp_path):
    _, out = sample(*COUNTS)
    (out / "samples.png").unlink()
    ended = launch("export", out)
    assert ended.code == 0, ended
    assert (out / "samples.png").stat().st_size > 0


def test_a_log_file_gets_one_line_per_iteration(sample):
    ended, out = sample(*COUNTS)
    lines = [line for line in ended.err.splitlines() if line.startswith("iteration ")]
    assert len(lines) == read_run(out).facts["iterations"] + 1


@pytest.mark.parametrize("ranks", [1, 4])
def test_check_says_what_runs_where(ranks):
    ended = launch("check", ranks=ranks)
    assert ended.code == 0, ended
    assert ended.out.count("nothing is wrong") == 1
    assert all(f"rank {rank} " in ended.out for rank in range(ranks))
    assert ("ping-pong" in ended.out) == (ranks > 1)


def test_without_a_launcher_no_mpi_library_is_needed(sample, tmp_path, monkeypatch):
    """The local transport never imports mpi4py."""
    blocked = tmp_path / "blocked" / "mpi4py"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('no MPI library here')")
    monkeypatch.setenv("PYTHONPATH", str(blocked.parent))
    ended, _ = sample(*COUNTS)
    assert ended.code == 0, ended
    ended, _ = sample(*COUNTS, "--transport", "mpi", "--force")
    assert ended.code == 2
    assert "no MPI library here" in ended.err
