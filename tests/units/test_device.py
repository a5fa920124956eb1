"""The device of a rank: its settings, and their record."""

from __future__ import annotations

import pytest
import torch
from helpers.networks import Contraction
from mpi4py import MPI

import pint_diffusion as pd
from pint_diffusion.errors import InputError
from pint_diffusion.runtime.device import ATTENTIONS, precision, set_precision
from pint_diffusion.runtime.world import open_world


@pytest.fixture
def as_before():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    set_precision(tf32=False, attention="auto")
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("attention", ["auto", *ATTENTIONS])
@pytest.mark.parametrize("tf32", [True, False])
def test_precision_is_what_was_set(tf32, attention):
    set_precision(tf32, attention)
    assert precision() == f"tf32 {'on' if tf32 else 'off'}, attention {attention}"


@pytest.mark.mpi(min_size=2)
@pytest.mark.usefixtures("as_before")
def test_ranks_that_round_unlike_one_another_are_refused():
    world = open_world("mpi")
    set_precision(tf32=world.rank == 1, attention="auto")
    with pytest.raises(InputError, match=r"torch of rank 1 on \S+ is set to tf32 on"):
        pd.sample(Contraction(), pd.Window(4), steps=8, comm=MPI.COMM_WORLD)
