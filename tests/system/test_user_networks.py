"""Networks that others trained, brought by a factory as a user would: docs/networks.md.

The weights are not in the repository. Without them everything here is skipped.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import user_networks
from helpers.runs import run

from pint_diffusion.build.plan import Sampling, make_plan
from pint_diffusion.build.probe import refuse_dependent_rows
from pint_diffusion.models import load_denoiser
from pint_diffusion.runtime.world import LocalWorld

FILES = {
    "yz_mnist": "mnist_ddpm/yz_ddpm_mnist_starter.pth",
    "sd_mnist": "mnist_ddpm/sd_ddpm_mnist.pth",
    "anime64": "anime64/anime64_ddpm_u8.npz",
}
SERIAL = (2.8e-2, 7.3e-3, 1.3e-3)
"""Relative L2 error of yz_mnist at k = 1, 2, 3 in a serial emulation by others."""
_loaded: dict = {}


def network(name):
    """The network from its factory, loaded once."""
    if not (user_networks.DATA / FILES[name]).is_file():
        pytest.skip(
            f"NOT TESTED: the network {name}, a user's own, because {FILES[name]} is not in "
            f"{user_networks.DATA}; set PINT_SHARED_DATA to the folder that has it"
        )
    if name not in _loaded:
        spec = f"{user_networks.__file__}:{name}"
        _loaded[name] = load_denoiser(spec, torch.device("cpu"), torch.float32)
    return _loaded[name]


@pytest.mark.parametrize("name", FILES)
def test_rows_at_different_levels_do_not_touch_each_other(name):
    model = network(name)
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(3, *model.shape, generator=draw)
    t = torch.tensor([0.0, 17.25, len(model.alphas_cumprod) - 1.0], dtype=torch.float64)
    alpha_bar = torch.full((3,), 0.5, dtype=torch.float64)
    with torch.inference_mode():
        together = model(x, t, alpha_bar)
        alone = torch.cat([model(x[r, None], t[r, None], alpha_bar[r, None]) for r in range(3)])
        moved = model(x, t.roll(1), alpha_bar)
    assert together.shape == x.shape
    assert together.isfinite().all()
    assert (together - alone).abs().max() < 1e-5 * together.abs().max()
    assert ((moved - together).flatten(1).norm(dim=1) > 1e-3).all(), "it does not look at t"


@pytest.mark.parametrize("name", FILES)
def test_it_is_not_refused(name):
    for batching in ("auto", "off"):
        asked = Sampling(network(name), samples=2, steps=8, batching=batching)
        refuse_dependent_rows(make_plan(asked, 1), LocalWorld())


@pytest.mark.parametrize("name", FILES)
def test_it_finds_the_noise_that_was_added(name):
    """A wrongly rebuilt network does not: nothing at all would give a share of 1.

    The clean pictures are its own samples.
    """
    model = network(name)
    short = {"steps": 25, "samples": 4} if name != "anime64" else {"steps": 12, "samples": 1}
    clean = run(LocalWorld(), model, **short, method="sequential").answer
    for at in (0.3, 0.6):
        t = round(at * len(model.alphas_cumprod))
        alpha_bar = float(model.alphas_cumprod[t])
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
        x = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise
        rows = torch.full((len(x),), float(t), dtype=torch.float64)
        with torch.inference_mode():
            found = model(x, rows, torch.full_like(rows, alpha_bar))
        share = ((found - noise).square().mean() / noise.square().mean()).item()
        print(f"{name}: share of the noise at t = {t} that is not found: {share:.3f}")
        assert share < 0.1


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    network("yz_mnist")
    stored = torch.load(
        user_networks.DATA / FILES["yz_mnist"], weights_only=True, map_location="cpu"
    )
    (tmp_path / "mnist_ddpm").mkdir()
    monkeypatch.setattr(user_networks, "DATA", tmp_path)
    without = {key: value for key, value in stored.items() if key != "gt.blocks.2.net.0.bias"}
    for wrong in ({**stored, "gt.more": torch.zeros(1)}, without):
        torch.save(wrong, tmp_path / FILES["yz_mnist"])
        with pytest.raises(RuntimeError, match="key\\(s\\) in state_dict"):
            user_networks.yz_mnist(torch.device("cpu"), torch.float32)


def test_after_m_iterations_the_answer_is_the_sequential_one_to_the_bit():
    model = network("yz_mnist")
    exact = {"batching": "off", "steps": 24, "slices": 8, "samples": 2, "tolerance": 1e-300}
    done = run(LocalWorld(), model, **exact)
    walk = run(LocalWorld(), model, **exact, method="sequential")
    assert done.outcome.iterations == 8
    assert torch.equal(done.answer, walk.answer)
    assert not torch.equal(done.boundary[3, -1], walk.answer)


@pytest.mark.timeout(300)
def test_the_error_falls_as_that_of_a_serial_emulation():
    """Samples differ by a factor of ten, so this is for these few; benchmarks/ has the rest."""
    model, iterations = network("yz_mnist"), 3
    grid = {"steps": 1000, "slices": 25, "samples": 4, "seed": 3}
    done = run(
        LocalWorld(), model, **grid, tolerance=1e-300, max_iterations=iterations, batching=16
    )
    truth = run(LocalWorld(), model, **grid, method="sequential").answer
    apart = (done.boundary[1:, -1] - truth).flatten(2).norm(dim=2)
    errors = (apart / truth.flatten(1).norm(dim=1)).mean(dim=1).numpy()
    print(f"relative error {', '.join(f'{e:.1e}' for e in errors)} at k = 1, 2, ...")
    ratio = errors / np.array(SERIAL[:iterations])
    assert (ratio < 2).all()
    assert (ratio > 0.5).all()
