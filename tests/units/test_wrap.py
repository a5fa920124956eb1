"""Networks that are in memory already: the numbers of loaded ones, and left as they were."""

from __future__ import annotations

import pytest
import torch
from helpers.checkpoints import save, tiny_network

import pint_diffusion as pd

GIVEN = {"steps": 12, "samples": 3, "batching": "off"}


class Edm(torch.nn.Module):
    """D(y, sigma) of data that are a standard Gaussian."""

    img_channels, img_resolution, sigma_min, sigma_max = 1, 8, 0.0, float("inf")

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, y, sigma):
        return self.one * y / (1 + sigma.view(-1, 1, 1, 1) ** 2)


def test_networks_in_memory(tmp_path):
    """The same bits as from a folder, for a network that is left as it was."""
    diffusers = pytest.importorskip("diffusers")
    folder = save(tiny_network(), tmp_path / "net", "pipeline")
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet").train()
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    denoiser = pd.from_diffusers(unet, scheduler)
    assert "UNet2DModel of (1, 8, 8), predicts epsilon" in repr(denoiser)
    one, other = (pd.sample(d, **GIVEN) for d in (denoiser, pd.load_denoiser(folder)))
    assert torch.equal(one.samples, other.samples)
    assert unet.training
    assert all(weight.requires_grad for weight in unet.parameters())
    weight = torch.ones((), requires_grad=True)
    (weight * one.samples).sum().backward()  # a result is a tensor like any other
    denoiser = pd.from_edm(Edm())
    assert denoiser.sigma_range == (0.002, 80)
    done = pd.sample(denoiser, pd.Window(4), pd.Heun(), spacing=pd.Spacing("karras"), **GIVEN)
    assert done.samples.std() == pytest.approx(1, abs=0.2)


def test_more_arguments_of_a_network_are_dealt_out_by_sample():
    class Prompted(torch.nn.Module):
        def forward(self, x, t, prompt):
            return 0 * x + prompt.view(-1, 1, 1, 1)

    scheduler = {"beta_schedule": "linear", "num_train_timesteps": 1000, "_class_name": "DDPM"}
    scheduler |= {"prediction_type": "sample"}
    prompt = torch.tensor([0.1, 0.2, 0.3])
    denoiser = pd.from_diffusers(Prompted(), scheduler, shape=(1, 2, 2), prompt=prompt)
    done = pd.sample(denoiser, pd.Parareal(slices=4), **GIVEN | {"batching": "auto"})
    assert torch.allclose(done.samples[:, 0, 0, 0], prompt)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: pd.from_diffusers(torch.nn.Identity(), {}), "`shape` is missing"),
        (lambda: pd.from_diffusers(torch.nn.Identity(), 3, (1, 2, 2)), "`scheduler` is a int"),
        (lambda: pd.from_edm(torch.nn.Identity()), "`shape` is missing"),
        (lambda: pd.from_edm(Edm(), sigma_min=90.0), "0 < sigma_min < sigma_max"),
    ],
    ids=["shape", "scheduler", "edm", "sigma"],
)
def test_what_can_not_be_taken_is_refused_in_one_sentence(call, word):
    with pytest.raises(pd.InputError) as error:
        call()
    assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_of_an_edm_network_are_one_hot_and_the_last_is_none():
    class Classes(Edm):
        label_dim = 2

        def forward(self, y, sigma, labels):
            return 0 * y + labels[:, :1].view(-1, 1, 1, 1)

    network = pd.condition(pd.from_edm(Classes()), [0, 1], 3, guidance=3.0)
    x, sigma = torch.zeros(3, 1, 8, 8), torch.ones(3)
    assert network(x, sigma, sigma)[:, 0, 0, 0].tolist() == [3.0, 0.0, 3.0]
