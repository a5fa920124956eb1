"""What the HDF5 files of a run say of themselves: of each array what it is, its unit and its axes.

Every dataset has the attributes ``description``, ``unit`` and ``nan`` (what not-a-number, or
another value that stands for none, means in it), and a label for each of its dimensions.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5s, h5t
from numpy.typing import NDArray

VALUE = "axis {} of a sample"
"""Label of a dimension that the network gives a meaning to."""

DATA = "unit of the network's clean data; attribute data_range of the master"
NEVER = "does not occur"


class Told(NamedTuple):
    """What is said of a dataset.

    Attributes
    ----------
    description, unit, nan : str
        Its attributes.
    axes : tuple of str
        Labels of its first dimensions; the others are those of a sample.
    """

    description: str
    unit: str
    nan: str
    axes: tuple[str, ...]


DATASETS = {
    "samples": Told(
        "the answer: the last boundary state u_M at the last iteration",
        DATA,
        "the network's own",
        ("sample",),
    ),
    "sequential": Told(
        "the sequential sampler's answer from the same noise",
        DATA,
        "the network's own",
        ("sample",),
    ),
    "boundary": Told(
        "what the columns n hold after iterations k = 0, 1, ...: of slices the boundary states "
        "u_n^k, of chords the states of the cores; a view of the files in parts/",
        DATA,
        "the column is final since an earlier iteration (n < k): see the rows above; or its part "
        "was missing at the last write of this file",
        ("iteration", "column", "sample"),
    ),
    "change": Told(
        "change of the answer of every sample at iterations 1, 2, ...; of methods in rounds the "
        "points that the sample has behind it",
        "1/255 of the data range; of methods in rounds points of the grid",
        "the network's own",
        ("iteration from 1 on", "sample"),
    ),
    "stopped_at": Told(
        "first iteration at which the sample met the tolerance",
        "iterations",
        "0: it did not",
        ("sample",),
    ),
    "grid/alpha_bar": Told(
        "noise levels as alpha_bar = a^2, where x = a x0 + s eps; noisiest first",
        "1",
        NEVER,
        ("point of the grid",),
    ),
    "grid/t": Told(
        "timesteps of the noise levels, as the network takes them; -1 is clean for a schedule of "
        "whole steps",
        "timesteps of the network's schedule",
        NEVER,
        ("point of the grid",),
    ),
    "grid/slices": Told(
        "points of the grid at which slices begin, and the last point",
        "steps",
        NEVER,
        ("boundary of a slice",),
    ),
    "events": Told(
        "what the ranks did, a row each: rank, slice and iteration (-1: none), kind (fine, coarse "
        "and shared evaluations, wait, send, recv), start and stop",
        "start and stop: seconds since the common start of the ranks, on the rank's own clock",
        "does not occur; zeros: the event file was missing",
        ("event",),
    ),
    "slices": Told(
        "numbers n of the columns in states: of slices, of points of the window, or of cores",
        "1",
        NEVER,
        ("column",),
    ),
    "states": Told(
        "start states u_n^k of the columns (group a), or the last boundary state (group b): x, and "
        "the tensors that solver and method carry with it",
        DATA,
        "the window has no such point, or a tensor of the method that is not there yet",
        ("column", "x and what it carries", "sample"),
    ),
}
"""Of every dataset that is in a file of a run."""


_TEXT = h5py.string_dtype()
_TEXTS = h5py.string_dtype("ascii")
_ONE = h5s.create(h5s.SCALAR)


def explain(file: h5py.File, *names: str) -> None:
    """Say of datasets in a file what they are.

    A part is written every iteration, so this calls HDF5 itself: h5py takes four times as long.
    """
    for name in names:
        found = file[name].id
        told, labels = _said(name, found.rank)
        for attribute, text in told.items():
            h5a.create(found, attribute, _type(_TEXT), _ONE).write(text)
        axes = h5s.create_simple(labels.shape)
        h5a.create(found, b"DIMENSION_LABELS", _type(_TEXTS), axes).write(labels)


def connect(file: h5py.File, of_slices: bool) -> None:
    """Make the arrays of the grid the scales of the axes along which others go.

    Parameters
    ----------
    file : h5py.File
        A master file.
    of_slices : bool
        The columns of the boundary states are boundaries of slices.
    """
    file["grid/t"].make_scale("t")
    file["grid/slices"].make_scale("slices")
    file["grid/alpha_bar"].dims[0].attach_scale(file["grid/t"])
    if of_slices and "boundary" in file:
        file["boundary"].dims[1].attach_scale(file["grid/slices"])


@cache
def _said(name: str, rank: int) -> tuple[dict[bytes, NDArray[Any]], NDArray[Any]]:
    """Return the attributes of a dataset of so many dimensions, and the labels of these."""
    told = DATASETS[name]
    texts = {"description": told.description, "unit": told.unit, "nan": told.nan}
    more = [VALUE.format(i) for i in range(rank - len(told.axes))]
    labels = np.array([label.encode() for label in (*told.axes, *more)], _TEXTS)
    return {key.encode(): np.array(text, _TEXT) for key, text in texts.items()}, labels


@cache
def _type(dtype: np.dtype[Any]) -> h5t.TypeID:
    return h5t.py_create(dtype, logical=True)
