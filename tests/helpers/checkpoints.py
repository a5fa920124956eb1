"""Small diffusers checkpoints, written to disk, and what errors say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pint_diffusion.errors import InputError

CPU = torch.device("cpu")


def tell(error: pytest.ExceptionInfo[InputError]) -> str:
    """Return the message, after checking that it is one line."""
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


def tiny_network(**changes):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    }
    # torch takes another kernel for weights that want a gradient, even under no_grad
    return UNet2DModel(**{**settings, **changes}).eval().requires_grad_(False)


def save(network, folder: Path, layout: str, **scheduler) -> Path:
    from diffusers import DDPMPipeline, DDPMScheduler

    schedule = DDPMScheduler(**{"clip_sample": False, **scheduler})
    if layout == "pipeline":
        DDPMPipeline(network, schedule).save_pretrained(folder)
    else:
        network.save_pretrained(folder)
        schedule.save_pretrained(folder)
    return folder
