"""Devices of the tests here: a CPU, and a CUDA device under ``-m gpu``, as ``make test-gpu`` says.

On a CPU a test shows that its own logic is right; that is all that it can show there.
"""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """The device of a test; a GPU that is asked for and is not there is a failure."""
    return cuda() if request.param == "cuda" else torch.device("cpu")


@pytest.fixture
def card() -> torch.device:
    """The first CUDA device."""
    return cuda()


def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.fail("no CUDA device here: make test-gpu is for a machine with one")
    return torch.device("cuda", 0)
