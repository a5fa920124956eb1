"""diffusers checkpoints on disk: an unconditional UNet2DModel and the schedule it was trained on.

Everything is read from local safetensors and JSON files: no network access, no unpickling.
"""

from __future__ import annotations

import json
import os
import warnings
from os import PathLike
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid import NoiseSchedule
from pint_diffusion.models.denoiser import PredictionType

PREDICTIONS: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "sample",
    "flow_prediction": "flow",
}
"""What diffusers calls the four kinds of output."""

SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")

UNSUITABLE: tuple[tuple[str, Any, str], ...] = (
    ("rescale_betas_zero_snr", True, "it makes alpha_bar zero, where x0 can't be recovered"),
    ("use_flow_sigmas", True, "flow-matching schedules come later"),
    ("timestep_type", "continuous", "networks that are told log(sigma) come later"),
)
"""Scheduler settings under which the network would be told a wrong level: key, value, reason."""

IGNORED = ("clip_sample", "thresholding")
"""Scheduler settings that change the sampler's steps, not what the network was trained on."""


class UNetDenoiser:
    """A diffusers UNet2DModel as a `Denoiser`.

    Attributes
    ----------
    network : torch.nn.Module
        The UNet2DModel, in evaluation mode.
    shape, prediction, alphas_cumprod, data_range
        See `Denoiser`; data_range is (-1, 1), as diffusers pipelines have it.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        shape: tuple[int, int, int],
        prediction: PredictionType,
        alphas_cumprod: NDArray[np.float64],
    ) -> None:
        self.network = network
        self.shape: tuple[int, ...] = shape
        self.prediction: PredictionType = prediction
        self.alphas_cumprod: ArrayLike = alphas_cumprod
        self.data_range = (-1.0, 1.0)

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
        """Evaluate the network at timesteps ``t``, see `Denoiser`.

        A network with twice as many output as input channels has learned its variance too
        (Nichol & Dhariwal 2021); the first half is returned.
        """
        return self.network(x, t).sample[:, : self.shape[0]]


def load_checkpoint(
    path: str | PathLike[str], device: torch.device, dtype: torch.dtype
) -> UNetDenoiser:
    """Load an unconditional network that diffusers saved.

    Parameters
    ----------
    path : path
        A pipeline folder, with ``unet/`` and ``scheduler/``, or a folder with the network's
        ``config.json`` and weights and a ``scheduler_config.json``.
    device : torch.device
        Where the network goes.
    dtype : torch.dtype
        Floating type of weights, states and results.

    Raises
    ------
    InputError
        If diffusers is missing, or if anything in the folder is missing, broken or of a kind that
        can't be sampled from.
    """
    root = Path(path)
    config_file, scheduler_file = _locate(root)
    shape = _read_network(config_file)
    for part in ("vae", "vqvae"):
        if os.path.isdir(root / part):
            raise InputError(f"{root}: is a latent pipeline (it has {part}/); these come later")
    if not os.path.isfile(scheduler_file):
        raise InputError(
            f"{scheduler_file}: no such file; save the scheduler the network was trained with there"
        )
    prediction, alphas_cumprod = _read_scheduler(scheduler_file)
    network = _load_weights(config_file.parent, device, dtype)
    model = UNetDenoiser(network, shape, prediction, alphas_cumprod)
    try:
        one = torch.zeros((1, *shape), device=device, dtype=dtype)
        level = torch.zeros(1, device=device)
        got = tuple(model(one, level, level).shape[1:])
    except Exception as error:
        raise InputError(
            f"{config_file}: the network can't evaluate a sample of shape {shape} as {dtype} on "
            f"{device}; check sample_size, the dtype and the device ({_reason(error)})"
        ) from error
    if got != shape:
        raise InputError(
            f"{config_file}: the network turns shape {shape} into {got}, not into its own"
        )
    return model


def _locate(root: Path) -> tuple[Path, Path]:
    """Return the configuration files of network and scheduler, in either layout."""
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such directory; give the folder of a diffusers checkpoint")
    if os.path.isfile(root / "unet" / "config.json"):
        files = root / "unet" / "config.json", root / "scheduler" / "scheduler_config.json"
    elif os.path.isfile(root / "config.json"):
        files = root / "config.json", root / "scheduler_config.json"
    else:
        raise InputError(
            f"{root}: holds neither unet/config.json nor config.json; "
            "give a folder written by save_pretrained"
        )
    return files


def _read_json(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: can't be read as JSON ({_reason(error)})") from error
    if not isinstance(config, dict):
        raise InputError(f"{file}: holds no JSON object; write it again with save_pretrained")
    return config


def _read_network(file: Path) -> tuple[int, int, int]:
    """Return the sample shape of a network that can be loaded; refuse the others."""
    config = _read_json(file)
    name = config.get("_class_name")
    if name != "UNet2DModel":
        raise InputError(
            f"{file}: _class_name is {name}, but only the unconditional UNet2DModel can be loaded; "
            "text-conditional pipelines and other networks come later"
        )
    for key in ("num_class_embeds", "class_embed_type"):
        if config.get(key) is not None:
            raise InputError(
                f"{file}: {key} is {config[key]}, so the network wants class labels; "
                "class-conditional networks come later, use an unconditional one"
            )
    embedding = config.get("time_embedding_type", "positional")
    if embedding != "positional":
        raise InputError(
            f"{file}: time_embedding_type is {embedding}; "
            "only positional takes timesteps between the training steps"
        )
    size = config.get("sample_size")
    sides: list[Any] = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise InputError(
            f"{file}: sample_size is {size}; set it to the pictures' size, or [height, width]"
        )
    inputs, outputs = config.get("in_channels", 3), config.get("out_channels", 3)
    if type(inputs) is not int or inputs < 1 or outputs not in (inputs, 2 * inputs):
        raise InputError(
            f"{file}: in_channels is {inputs} and out_channels is {outputs}; a sampler needs as "
            "many out as in, or twice as many where the variance is learned"
        )
    return inputs, sides[0], sides[1]


def _read_scheduler(file: Path) -> tuple[PredictionType, NDArray[np.float64]]:
    """Return what the network predicts and alphas_cumprod (T,), as diffusers computes it."""
    config = _read_json(file)
    for key, value, why in UNSUITABLE:
        if config.get(key) == value:
            raise InputError(f"{file}: {key} is {json.dumps(value)}, which is refused: {why}")
    # predict_epsilon: the name of the setting before diffusers 0.10
    default = "sample" if config.get("predict_epsilon") is False else "epsilon"
    kind = str(config.get("prediction_type", default))
    if kind not in PREDICTIONS:
        raise InputError(
            f"{file}: prediction_type is {kind}; known are {', '.join(sorted(PREDICTIONS))}"
        )
    if "num_train_timesteps" not in config or "beta_schedule" not in config:
        raise InputError(
            f"{file}: has no num_train_timesteps or no beta_schedule; "
            "only networks trained on a schedule of betas can be loaded"
        )
    scheduler, _ = _diffusers()
    given = {key: config[key] for key in SCHEDULE_KEYS if key in config}
    try:
        # as float32 numbers, the ones the diffusers pipelines use
        values = scheduler(**given).alphas_cumprod.to(torch.float64).numpy()
        alphas_cumprod = NoiseSchedule(values).alphas_cumprod
    except Exception as error:
        raise InputError(f"{file}: gives no noise schedule ({_reason(error)})") from error
    for key in IGNORED:
        if config.get(key):
            warnings.warn(
                f"{file}: {key} is true, but the steps taken here never clip, so results differ "
                "from the diffusers pipeline's; set it to false to silence this",
                stacklevel=3,
            )
    return PREDICTIONS[kind], alphas_cumprod


def _load_weights(folder: Path, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    _, unet = _diffusers()
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{folder}: holds no .safetensors weights; pickled ones are never loaded, "
            "save the network again with safe_serialization=True"
        )
    try:
        network, report = unet.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            torch_dtype=dtype,
        )
        network = network.to(device)
    except Exception as error:
        raise InputError(f"{folder}: the weights can't be loaded ({_reason(error)})") from error
    # diffusers fills missing weights with random numbers and goes on
    odd = [key for kind in ("missing_keys", "unexpected_keys") for key in report[kind]]
    if odd:
        raise InputError(
            f"{folder}: weights and config.json do not belong together: {len(odd)} of the weights "
            f"are missing or unknown, such as {odd[0]}; save the network again"
        )
    return network.eval().requires_grad_(False)


def _diffusers() -> tuple[Any, Any]:
    """Import DDPMScheduler and UNet2DModel."""
    try:
        from diffusers import DDPMScheduler, UNet2DModel
    except (ImportError, RuntimeError) as error:
        raise InputError(
            "a checkpoint needs diffusers, which can't be imported: "
            f"pip install 'pint-diffusion[diffusers]' ({_reason(error)})"
        ) from error
    return DDPMScheduler, UNet2DModel


def _reason(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 300)
