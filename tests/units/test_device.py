"""The device of a rank: its settings, and their record."""

from __future__ import annotations

import pytest

from pint_diffusion.runtime.device import ATTENTIONS, precision, set_precision


@pytest.fixture
def as_before():
    yield
    set_precision(tf32=False, attention="auto")


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("attention", ["auto", *ATTENTIONS])
@pytest.mark.parametrize("tf32", [True, False])
def test_precision_is_what_was_set(tf32, attention):
    set_precision(tf32, attention)
    assert precision() == f"tf32 {'on' if tf32 else 'off'}, attention {attention}"
