"""Networks that others trained, as a user would bring them: one factory each.

    PINT_SHARED_DATA=folder pint-diffusion sample --model tests/helpers/user_networks.py:yz_mnist

The weights are no part of the repository. They are read from the folder that the variable
PINT_SHARED_DATA names, by default ../shared/data beside the repository; docs/networks.md says what
they are.
"""

from __future__ import annotations

import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, silu

DATA = Path(os.environ.get("PINT_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
ANIME_STEPS, ANIME_START = 300, 290


def yz_mnist(device, dtype):
    return Mnist("yz_ddpm_mnist_starter.pth", device, dtype)


def sd_mnist(device, dtype):
    return Mnist("sd_ddpm_mnist.pth", device, dtype)


def anime64(device, dtype):
    return Anime(device, dtype)


class Mnist:
    """A DDPM of digits. It counts its training steps from 1 to 1000, and ours from 0 to 999."""

    shape = (1, 28, 28)
    prediction = "epsilon"
    data_range = (-0.5, 0.5)

    def __init__(self, name, device, dtype):
        file = DATA / "mnist_ddpm" / name
        stored = torch.load(file, weights_only=True, map_location="cpu")
        betas = stored.pop("beta_t").double()
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        torch.testing.assert_close(alpha_bar, stored.pop("alpha_t").double(), rtol=1e-3, atol=0)
        self.alphas_cumprod = alpha_bar[1:].numpy()
        net = DigitNet()
        net.load_state_dict({key.removeprefix("gt."): value for key, value in stored.items()})
        self.net = net.to(device, dtype).requires_grad_(False)
        self.net.frequencies = stored["gt.frequencies"].to(device, torch.float64)

    def __call__(self, x, t, alpha_bar):
        return self.net(x, (t + 1) / 1000)


class DigitBlock(nn.Module):
    def __init__(self, width_in, width_out):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width_in, width_out, 7, padding=3),
            nn.LayerNorm((width_out, 28, 28)),
            nn.GELU(),
        )

    def forward(self, x):
        return self.net(x)


class DigitNet(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (1, 16, 32, 32, 16)
        blocks = [DigitBlock(a, b) for a, b in pairwise(widths)]
        self.blocks = nn.ModuleList([*blocks, nn.Conv2d(16, 1, 3, padding=1)])
        layers = [nn.Linear(32, 128), nn.GELU()]
        for _ in range(2):
            layers += [nn.Linear(128, 128), nn.GELU()]
        self.time_embed = nn.Sequential(*layers, nn.Linear(128, 16))
        self.register_buffer("frequencies", torch.zeros(16))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        # the highest phase is 1800 radians, so it is rounded to the network's dtype last
        phase = t.double()[:, None] * self.frequencies
        seen = torch.cat([phase.sin(), phase.cos() - 1], dim=1).to(x.dtype)
        first, *others = self.blocks
        x = first(x) + self.time_embed(seen)[:, :, None, None]
        for block in others:
            x = block(x)
        return x


class Anime:
    """A DDPM of faces: a U-Net of 63.2 M parameters. Above t = 290 its schedule is singular."""

    shape = (3, 64, 64)
    prediction = "epsilon"
    data_range = (-1.0, 1.0)

    def __init__(self, device, dtype):
        at = (np.arange(ANIME_STEPS + 1) / ANIME_STEPS + 0.008) / 1.008
        f = np.cos(at * np.pi / 2) ** 2
        betas = np.clip(1 - f[1:] / f[:-1], 1e-4, 0.9999)
        self.alphas_cumprod = np.cumprod(1 - betas)[: ANIME_START + 1]
        net = FaceNet()
        net.load_state_dict(decoded(DATA / "anime64" / "anime64_ddpm_u8.npz"))
        self.net = net.to(device, dtype).requires_grad_(False)

    def __call__(self, x, t, alpha_bar):
        return self.net(x, t)


def decoded(file):
    """Name -> weights, which are stored as eight-bit codes."""
    with np.load(file) as stored:
        names = [name for name in stored.files if "::" not in name]
        return {
            name: torch.from_numpy(
                stored[name].astype(np.float32) * stored[f"{name}::scale"] + stored[f"{name}::min"]
            ).float()
            for name in names
        }


def norm(width):
    return nn.GroupNorm(8, width, eps=1e-3)


class Residual(nn.Module):
    def __init__(self, width_in, width_out):
        super().__init__()
        self.skip = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()
        self.temb = nn.Linear(256, width_out)
        self.n1, self.c1 = norm(width_in), nn.Conv2d(width_in, width_out, 3, padding=1)
        self.n2, self.c2 = norm(width_out), nn.Conv2d(width_out, width_out, 3, padding=1)

    def forward(self, x, embedded):
        h = self.c1(silu(self.n1(x))) + self.temb(silu(embedded))[:, :, None, None]
        return self.skip(x) + self.c2(silu(self.n2(h)))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.p = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, embedded):
        x = self.norm(x)  # the sum below is with the normalised x
        rows = x.flatten(2).transpose(1, 2)
        share = self.q(rows) @ self.k(rows).transpose(1, 2) / math.sqrt(x.shape[1])
        seen = self.p(share.softmax(dim=2) @ self.v(rows))
        return x + seen.transpose(1, 2).reshape(x.shape)


class Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x, embedded):
        return self.c(pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x, embedded):
        return self.c(interpolate(x, scale_factor=2, mode="nearest"))


class FaceNet(nn.Module):
    def __init__(self):
        super().__init__()
        widths, attends = (64, 128, 256, 512), (False, False, True, True)
        self.conv_in = nn.Conv2d(3, 64, 3, padding=1)
        self.t1, self.t2 = nn.Linear(256, 256), nn.Linear(256, 256)
        down, kept, width = [], [64], 64
        for level, (wide, attend) in enumerate(zip(widths, attends, strict=True)):
            for _ in range(2):
                down.append(stage(width, wide, attend))
                width = wide
                kept.append(width)
            if level < 3:
                down.append(nn.ModuleList([Down(width)]))
                kept.append(width)
        self.down = nn.ModuleList(down)
        self.mid = nn.ModuleList([Residual(512, 512), Attention(512), Residual(512, 512)])
        up = []
        for level, (wide, attend) in reversed(list(enumerate(zip(widths, attends, strict=True)))):
            for _ in range(3):
                up.append(stage(width + kept.pop(), wide, attend))
                width = wide
            if level > 0:
                up.append(nn.ModuleList([Up(width)]))
        self.up = nn.ModuleList(up)
        self.no, self.co = norm(64), nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(1e4) / 127 * torch.arange(128, device=x.device))
        phase = t.to(torch.float64)[:, None] * frequencies
        seen = torch.cat([phase.sin(), phase.cos()], dim=1).to(x.dtype)
        embedded = self.t2(silu(self.t1(seen)))
        x = self.conv_in(x)
        kept = [x]
        for modules in self.down:
            for module in modules:
                x = module(x, embedded)
            kept.append(x)
        for module in self.mid:
            x = module(x, embedded)
        for modules in self.up:
            if isinstance(modules[0], Residual):
                x = torch.cat([x, kept.pop()], dim=1)
            for module in modules:
                x = module(x, embedded)
        return self.co(silu(self.no(x)))


def stage(width_in, width_out, attend):
    block = Residual(width_in, width_out)
    return nn.ModuleList([block, Attention(width_out)] if attend else [block])
