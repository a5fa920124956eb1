"""Train the bundled network: a small UNet2DModel on grey pictures, in diffusers format.

    python -m pint_diffusion.training.train --data fashion_mnist_70k.npz --out OUT

The network predicts v (Salimans & Ho 2022) under the DDPM linear schedule. The program draws real
timesteps, so the network also learns the levels between training steps, where samplers with more
steps evaluate it. Stop the program at any time; the same command resumes it.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from tqdm import tqdm

from pint_diffusion.errors import InputError
from pint_diffusion.grid import NoiseSchedule
from pint_diffusion.settings.flags import with_flags
from pint_diffusion.settings.reading import CommandSettings, help_of, parse

PREDICTION = "v_prediction"


class Training(CommandSettings):
    """Train a class-free diffusion network on grey pictures."""

    program: ClassVar[str] = "python -m pint_diffusion.training.train"

    data: Path = Field(description=".npz file with `images`, (count, size, size), uint8")
    out: Path = Field(description="folder of checkpoint, log, loss curve and training state")
    steps: PositiveInt = Field(4000, description="optimiser steps in all")
    batch: PositiveInt = Field(64, description="pictures per step")
    lr: float = Field(
        1.5e-3, gt=0, description="peak learning rate; 5 % of the steps warm up, then a cosine"
    )
    ema: float = Field(
        0.998, gt=0, lt=1, description="decay of the averaged weights, the ones that are saved"
    )
    channels: tuple[int, ...] = Field(
        (24, 48, 96), description="channels at full, half and quarter resolution"
    )
    save_every: PositiveInt = Field(250, description="steps between saves")
    seed: int = Field(0, ge=0, description="seed of weights, pictures and noise")
    device: str = Field("cpu", description="torch device")


def load_images(path: Path) -> Tensor:
    """Read the training pictures, (count, size, size) uint8.

    Raises
    ------
    InputError
        If the file holds no such array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images = file["images"]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"`data` {path} has no array 'images' that can be read: {error}") from None
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise InputError(
            f"`data` {path}: images is {images.dtype} {images.shape}, but must be uint8 "
            "(count, size, size)"
        )
    return torch.from_numpy(images)


def make_network(size: int, channels: tuple[int, ...]) -> Any:
    """Build the UNet2DModel for grey ``size`` x ``size`` pictures."""
    from diffusers import UNet2DModel

    plain = len(channels) - 1
    return UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        attention_head_dim=32,
        norm_num_groups=8,
    )


def v_loss(
    network: torch.nn.Module, clean: Tensor, schedule: NoiseSchedule, draw: torch.Generator
) -> Tensor:
    """Return the mean squared error of v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0.

    The timesteps are stratified: one in each of as many equal parts as there are pictures.
    """
    count = len(clean)
    strata = (torch.arange(count) + torch.rand(count, generator=draw)) / count
    t = strata * (schedule.training_steps - 1)
    alpha_bar = torch.from_numpy(schedule.alpha_bar(t.numpy())).float().to(clean.device)
    signal, noise = (c.sqrt().view(-1, 1, 1, 1) for c in (alpha_bar, 1 - alpha_bar))
    eps = torch.randn(clean.shape, generator=draw).to(clean.device)
    out = network(signal * clean + noise * eps, t.to(clean.device)).sample
    return (out - (signal * eps - noise * clean)).square().mean()


def save_checkpoint(average: torch.nn.Module, out: Path) -> None:
    """Write the averaged weights as a float16 DDPMPipeline folder (safetensors)."""
    from diffusers import DDPMPipeline, DDPMScheduler

    scheduler = DDPMScheduler(prediction_type=PREDICTION, clip_sample=False)
    half = copy.deepcopy(average).half()
    pipeline: Any = DDPMPipeline(half, scheduler)
    pipeline.save_pretrained(out, safe_serialization=True)


def draw_loss(log: Path) -> None:
    """Draw the loss curve beside the log."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = np.loadtxt(log, delimiter=",", skiprows=1, ndmin=2)
    fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
    ax.plot(rows[:, 0], rows[:, 2], lw=1)
    ax.set(xlabel="optimiser step", ylabel="loss (mean squared error of v)", yscale="log")
    fig.savefig(log.with_name("loss.png"), dpi=120)
    plt.close(fig)


def train(run: Training) -> None:
    """Train, and save every ``save_every`` steps; resume from the last save if there is one."""
    torch.manual_seed(run.seed)
    run.out.mkdir(parents=True, exist_ok=True)
    images = load_images(run.data)
    network = make_network(images.shape[-1], run.channels).to(run.device)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), run.lr, weight_decay=1e-3)
    draw = torch.Generator().manual_seed(run.seed)
    schedule = NoiseSchedule.ddpm_linear()
    state_file, log = run.out / "training_state.pt", run.out / "train_log.csv"
    start = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        draw.set_state(state["draw"])
        start = state["step"]
    with open(log, "a" if start else "w", newline="") as file:
        if not start:
            csv.writer(file).writerow(["step", "images", "loss", "lr", "seconds"])
    losses: list[float] = []
    began = time.perf_counter()
    bar = tqdm(range(start, run.steps), initial=start, total=run.steps, mininterval=5)
    for step in bar:
        warm = min(1.0, (step + 1) / (0.05 * run.steps))
        lr = run.lr * warm * 0.5 * (1 + math.cos(math.pi * step / run.steps))
        for group in optimiser.param_groups:
            group["lr"] = lr
        picks = torch.randint(len(images), (run.batch,), generator=draw)
        clean = images[picks, None].to(run.device).float() / 127.5 - 1
        loss = v_loss(network, clean, schedule, draw)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        decay = min(run.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, new in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            row = [step + 1, (step + 1) * run.batch, sum(losses) / len(losses), lr]
            bar.set_postfix(loss=f"{row[2]:.4f}")
            with open(log, "a", newline="") as file:
                csv.writer(file).writerow([*row, round(time.perf_counter() - began, 1)])
            losses.clear()
        if (step + 1) % run.save_every == 0 or step + 1 == run.steps:
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "draw": draw.get_state(),
                "step": step + 1,
            }
            torch.save(state, state_file.with_suffix(".new"))
            os.replace(state_file.with_suffix(".new"), state_file)
            save_checkpoint(average, run.out)
            if step >= 100:
                draw_loss(log)


if __name__ == "__main__":
    if {"-h", "--help"} & {*sys.argv}:
        print(help_of(Training, sys.argv[1:]), end="")
        sys.exit(0)
    try:
        train(parse(Training, sys.argv[1:]))
    except InputError as error:
        print(f"error: {with_flags(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
