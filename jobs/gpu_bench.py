"""Batched wavefront and window against the sequential sampler, on one device, as one table.

    python jobs/gpu_bench.py --device cuda --size full
    python jobs/gpu_bench.py --device cpu --size small

Nothing is downloaded. The networks are the bundled one, a U-Net as of Stable Diffusion 1.5 and a
transformer as of Flux. The last two have random weights and random, fixed encoder states: what
is measured is how long calls take and how many can share one, not a picture. With random weights
the number of iterations says little, so the columns `in a row`, `calls` and `ms/call` do.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pint_diffusion.build.plan import Sampling, make_plan
from pint_diffusion.methods import Parareal, Sequential, Window
from pint_diffusion.models import load_denoiser
from pint_diffusion.models.denoiser import Denoiser
from pint_diffusion.run import solve, warm_up
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.solvers import DDIM, FlowEuler

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNET = {
    "full": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "small": {
        "sample_size": 16,
        "block_out_channels": (32, 32, 64, 64),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    },
}
FLUX = {
    "full": {"side": 128},
    "small": {
        "side": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (8, 12, 12),
    },
}
TOKENS = {"full": (77, 512), "small": (8, 8)}
"""Encoder states of the U-Net and of the transformer."""


@contextlib.contextmanager
def weights_in(dtype: torch.dtype) -> Iterator[None]:
    """Make weights in a dtype at once: in float32 those of Flux alone take 48 GB."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class StableDiffusion:
    """A U-Net as of Stable Diffusion 1.5; predicts epsilon of latents (4, side, side)."""

    prediction = "epsilon"
    data_range = (-1.0, 1.0)
    alphas_cumprod = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)

    def __init__(self, size: str, device: torch.device, dtype: torch.dtype) -> None:
        from diffusers import UNet2DConditionModel

        config = UNET[size]
        with torch.device(device), weights_in(dtype):
            self.net = UNet2DConditionModel(**config)
        self.net.eval().requires_grad_(False)
        with torch.device(device):
            self.text = torch.randn(1, TOKENS[size][0], config["cross_attention_dim"], dtype=dtype)
        self.shape = (4, config["sample_size"], config["sample_size"])

    def __call__(self, x: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
        """Evaluate with the same encoder states for every row."""
        text = self.text.expand(len(x), -1, -1)
        return self.net(x, t, encoder_hidden_states=text, return_dict=False)[0]


class Flux:
    """A transformer as of Flux; predicts the flow of latents (16, side, side)."""

    prediction = "flow"
    data_range = (-1.0, 1.0)

    def __init__(self, size: str, device: torch.device, dtype: torch.dtype) -> None:
        from diffusers import FluxTransformer2DModel

        config = dict(FLUX[size])
        side = config.pop("side")
        with torch.device(device), weights_in(dtype):
            self.net = FluxTransformer2DModel(guidance_embeds=True, **config)
        self.net.eval().requires_grad_(False)
        own = self.net.config
        with torch.device(device):
            self.text = torch.randn(1, TOKENS[size][1], own.joint_attention_dim, dtype=dtype)
            self.pooled = torch.randn(1, own.pooled_projection_dim, dtype=dtype)
            self.text_ids = torch.zeros(TOKENS[size][1], 3, dtype=dtype)
            rows, columns = torch.meshgrid(*2 * [torch.arange(side // 2)], indexing="ij")
            ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1)
            self.image_ids = ids.reshape(-1, 3).to(dtype)
        self.shape = (16, side, side)

    def __call__(self, x: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
        """Evaluate on patches of 2 x 2, with the same encoder states for every row."""
        rows, channels, height, width = x.shape
        patches = x.view(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        out = self.net(
            hidden_states=patches.reshape(rows, -1, 4 * channels),
            encoder_hidden_states=self.text.expand(rows, -1, -1),
            pooled_projections=self.pooled.expand(rows, -1),
            timestep=(t / 1000).to(x.dtype),
            img_ids=self.image_ids,
            txt_ids=self.text_ids,
            guidance=torch.full((rows,), 3.5, dtype=x.dtype, device=x.device),
            return_dict=False,
        )[0]
        out = out.view(rows, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(x.shape)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    network: str
    method: str
    iterations: int
    in_a_row: int
    calls: int
    ms_per_call: float
    seconds: float
    speed_up: float
    error: float


HEAD = (
    f"{'network':<16}{'method':<14}{'iterations':>11}{'in a row':>10}{'calls':>7}{'ms/call':>10}"
    f"{'seconds':>10}{'speed-up':>10}{'error':>10}"
)


def line(row: Row) -> str:
    """Write a row below `HEAD`."""
    return (
        f"{row.network:<16}{row.method:<14}{row.iterations:>11}{row.in_a_row:>10}{row.calls:>7}"
        f"{row.ms_per_call:>10.2f}{row.seconds:>10.3f}{row.speed_up:>10.2f}{row.error:>10.1e}"
    )


def measure(name: str, network: Denoiser, given: argparse.Namespace, emit: Callable) -> None:
    """Run the three methods on a network; the second of two runs counts."""
    device, steps = torch.device(given.device), given.steps
    slices = round((4 * steps) ** 0.5)
    methods = {
        "sequential": Sequential(),
        f"parareal {slices}": Parareal(slices=slices, placement="slice"),
        f"window {given.window}": Window(window=given.window),
    }
    truth = None
    for method, made in methods.items():
        asked = Sampling(
            network,
            made,
            FlowEuler() if network.prediction == "flow" else DDIM(),
            steps=steps,
            samples=given.samples,
            device=device,
            dtype=DTYPES[given.dtype],
        )
        plan = make_plan(asked, LocalWorld())
        warm_up(plan)
        for _ in range(2):
            begun = time.perf_counter()
            run = solve(plan, LocalWorld())
            assert run.samples is not None
            answer = run.samples.double().cpu()  # waits for the device
            seconds = time.perf_counter() - begun
        if truth is None:
            truth, alone = answer, seconds
        error = float((answer - truth).norm() / truth.norm())
        ms = 1000 * run.evaluation_time
        row = Row(
            name, method, run.iterations, run.evaluations_deep, run.network_calls, ms, seconds,
            alone / seconds, error,
        )  # fmt: skip
        emit(line(row))


def main() -> None:
    """Read flags, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default=None)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--networks", nargs="+", choices=["bundled", "unet", "flux"])
    given = parser.parse_args()
    device = torch.device(given.device)
    given.dtype = given.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    dtype = DTYPES[given.dtype]
    torch.manual_seed(0)
    kinds: dict[str, Callable[[], Denoiser]] = {
        "bundled": lambda: load_denoiser(None, device, dtype),
        "unet": lambda: StableDiffusion(given.size, device, dtype),
        "flux": lambda: Flux(given.size, device, dtype),
    }
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{named}, {given.dtype}, size {given.size}, {given.steps} steps, {given.samples} sample(s)"
    )
    print(HEAD, flush=True)
    for name in given.networks or kinds:
        network = kinds[name]()
        measure(name, network, given, lambda text: print(text, flush=True))
        del network
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
