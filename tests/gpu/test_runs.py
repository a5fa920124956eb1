"""Whole runs on a device: bits, two ranks on one card, and a batch that does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.launch import launch
from helpers.runs import run

from pint_diffusion.build.plan import Sampling, make_plan
from pint_diffusion.build.probe import refuse_dependent_rows
from pint_diffusion.commands.cli import main
from pint_diffusion.models import load_denoiser
from pint_diffusion.models.digest import weights_of
from pint_diffusion.runtime.device import set_precision
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.store.master import read_run

GIVEN = ["--steps", 16, "--slices", 4, "--samples", 3, "--batching", "off", "--tolerance", 0]


def sample(device, folder, *more, ranks=1):
    """Run the command on a device."""
    given = [*GIVEN, "--device", device.type, "--out", folder, *more]
    ended = launch("sample", *given, ranks=ranks)
    assert ended.code == 0, ended
    return read_run(folder)


@pytest.mark.parametrize("method", ["parareal", "window", "chords"])
def test_the_answer_has_the_bits_of_the_sequential_sampler(device, tmp_path, method):
    own = {"window": ["--window", 4], "chords": ["--cores", 4], "parareal": []}[method]
    given = [one for one in GIVEN if method == "parareal" or one not in ("--slices",)]
    if method != "parareal":
        given.remove(4)
    given += [*own, "--method", method, "--device", device.type, "--verify"]
    assert main(["sample", *map(str, given), "--out", str(tmp_path / "run")]) == 0
    record = read_run(tmp_path / "run")
    assert np.array_equal(record.samples, record.sequential)


def test_two_ranks_on_one_device_have_the_bits_of_one(device, tmp_path):
    one = sample(device, tmp_path / "one")
    two = sample(device, tmp_path / "two", "--placement", "slice", ranks=2)
    assert {name.split()[0] for name in two.facts["devices"]} <= {"cpu", "cuda:0", "cuda:1"}
    assert np.array_equal(one.samples, two.samples)
    assert np.array_equal(one.boundary, two.boundary)


def test_weights_have_the_same_digest_on_a_device_and_answers_there_are_not_refused(device):
    network = load_denoiser(device=device)
    assert weights_of(network) == weights_of(load_denoiser())
    asked = Sampling(network, samples=3, steps=12, device=device)
    for tf32 in (False, True):
        set_precision(tf32, "auto")
        refuse_dependent_rows(make_plan(asked, 1), LocalWorld())
    set_precision(False, "auto")


class Hungry:
    """Wants memory that the card has for one evaluation and not for all that are ready."""

    shape = (1, 8, 8)
    prediction = "epsilon"
    data_range = (-1.0, 1.0)
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

    def __init__(self, each: int) -> None:
        self.each = each
        self.rows: list[int] = []

    def __call__(self, x, t, alpha_bar):
        wanted = torch.empty(len(x) * self.each, dtype=torch.uint8, device=x.device)
        self.rows.append(len(x))
        return x.tanh() + 0 * wanted[:1].float()


@pytest.mark.gpu
def test_a_batch_that_does_not_fit_is_halved_and_the_run_goes_on(card):
    free, _ = torch.cuda.mem_get_info(card)
    network = Hungry(int(0.3 * free))  # three rows fit
    given = {"steps": 24, "slices": 8, "samples": 1, "tolerance": 0, "device": "cuda"}
    answer = run(LocalWorld(), network, **given).answer
    assert 1 < max(network.rows) <= 3
    alone = run(LocalWorld(), Hungry(1), **given, batching="off").answer
    torch.testing.assert_close(answer, alone)
