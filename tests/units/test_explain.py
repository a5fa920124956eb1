"""The HDF5 files of a run explain themselves, and a record says in a line what it is."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from pint_diffusion.commands.cli import main
from pint_diffusion.methods import METHODS
from pint_diffusion.store.explain import DATASETS
from pint_diffusion.store.master import read_run

GIVEN = ["--steps", "16", "--samples", "2", "--tolerance", "0", "--verify"]
EXPECTED = {"samples", "sequential", "change", "stopped_at", "events"}
EXPECTED |= {f"grid/{name}" for name in ("alpha_bar", "t", "slices")}


@pytest.fixture(scope="module", params=METHODS)
def run(request, tmp_path_factory, mixture_file):
    folder = tmp_path_factory.mktemp(request.param) / "run"
    given = ["--model", f"gmm:{mixture_file}", "--method", request.param, *GIVEN]
    assert main(["sample", *given, "--out", str(folder)]) == 0
    return folder


def datasets(path):
    """Every dataset of a file, by its name, with what it says of itself."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            labels = [dimension.label for dimension in item.dims]
            scales = [[scale.name for scale in dimension.values()] for dimension in item.dims]
            found[name] = dict(item.attrs), labels, scales, item.ndim

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_every_dataset_says_what_it_is_in_which_unit_along_which_axes_and_what_nan_means(run):
    master = datasets(run / "run.h5")
    assert master.keys() >= EXPECTED
    paths = [run / "run.h5", run / "events-00-0000.h5", *(run / "parts").glob("*.h5")]
    assert len(paths) > 3
    for path in paths:
        found = datasets(path)
        assert found, path
        for name, (attributes, labels, _, rank) in found.items():
            for said in ("description", "unit", "nan"):
                assert isinstance(attributes[said], str), (path, name, said)
                assert attributes[said], (path, name, said)
            assert len(labels) == rank
            assert all(labels), (path, name, labels)
            assert len(set(labels)) == rank, (path, name, labels)


def test_the_arrays_of_the_grid_are_scales_of_what_lies_along_them(run):
    master = datasets(run / "run.h5")
    assert master["grid/alpha_bar"][2] == [["/grid/t"]]
    if read_run(run).facts["column"] == "slice":
        assert master["boundary"][2][1] == ["/grid/slices"]


def test_no_text_is_about_a_dataset_that_no_file_has(run):
    with h5py.File(next((run / "parts").glob("*.h5"))) as part:
        in_files = {*datasets(run / "run.h5"), *part, "boundary"}
    assert in_files == DATASETS.keys()


def test_what_is_missing_in_a_boundary_is_nan_as_it_says(run):
    with h5py.File(run / "run.h5") as file:
        if "boundary" in file and file.attrs["retires"]:
            boundary = file["boundary"][:]
            assert "n < k" in file["boundary"].attrs["nan"]
            final = np.arange(boundary.shape[1]) < np.arange(len(boundary))[:, None]
            assert np.isnan(boundary[final]).all()
            assert not np.isnan(boundary[~final]).any()


def test_a_record_says_in_a_line_what_it_is(run):
    record = read_run(run)
    told = repr(record)
    assert len(told) < 160
    for part in (record.facts["method"], "16 steps", "2 samples of (1, 3, 2)", "finished"):
        assert part in told
