"""diffusers checkpoints on disk: a UNet2DModel and the noise levels it was trained on.

Everything is read from local safetensors and JSON files: no network access, no unpickling.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from pint_diffusion.errors import InputError
from pint_diffusion.grid import NoiseSchedule, SigmaSchedule
from pint_diffusion.models.denoiser import PredictionType
from pint_diffusion.models.preconditioning import Preconditioning

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
    ("use_flow_sigmas", True, "save a FlowMatchEulerDiscreteScheduler with a flow network"),
    ("invert_sigmas", True, "the network would be told 1 - sigma"),
    ("timestep_type", "continuous", "networks that are told log(sigma) come later"),
)
"""Scheduler settings under which the network would be told a wrong level: key, value, reason."""

IGNORED = ("clip_sample", "thresholding")
"""Scheduler settings that change the sampler's steps, not what the network was trained on."""

FLOW = "FlowMatchEulerDiscreteScheduler"
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")


@dataclass(frozen=True)
class Training:
    """What a scheduler's configuration tells about the network's training.

    Attributes
    ----------
    prediction : PredictionType
        See `Denoiser`.
    levels : dict
        The attribute that tells the noise levels, see `pint_diffusion.models.denoiser.schedule_of`.
    preconditioning : Preconditioning, optional
        What is wrapped around an EDM network.
    """

    prediction: PredictionType
    levels: dict[str, Any]
    preconditioning: Preconditioning | None = None


class UNetDenoiser:
    """A diffusers UNet2DModel as a `Denoiser`, or as a `ClassConditional` network.

    Attributes
    ----------
    network : torch.nn.Module
        The UNet2DModel, in evaluation mode.
    shape, prediction, data_range, learns_variance
        See `Denoiser`; data_range is (-1, 1), as diffusers pipelines have it. One more attribute
        tells the noise levels, `Training.levels`.
    classes : int or None
        Number of class embeddings.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        shape: tuple[int, int, int],
        training: Training,
        learns_variance: bool = False,
        classes: int | None = None,
    ) -> None:
        self.network = network
        self.shape: tuple[int, ...] = shape
        self.prediction: PredictionType = training.prediction
        self.data_range = (-1.0, 1.0)
        self.learns_variance = learns_variance
        self.classes = classes
        self.preconditioning = training.preconditioning
        vars(self).update(training.levels)

    @torch.inference_mode()
    def __call__(
        self, x: Tensor, t: Tensor, alpha_bar: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Evaluate the network at timesteps ``t``, see `Denoiser`."""
        if self.preconditioning is None:
            return self.network(x, t, class_labels=labels).sample
        scaled, c_noise = self.preconditioning.given(x, t)
        output = self.network(scaled, c_noise, class_labels=labels).sample
        return self.preconditioning.denoised(x, t, output)


def load_checkpoint(
    path: str | PathLike[str], device: torch.device, dtype: torch.dtype
) -> UNetDenoiser:
    """Load a UNet2DModel that diffusers saved.

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
    shape, learns_variance, classes = _read_network(config_file)
    for part in ("vae", "vqvae"):
        if os.path.isdir(root / part):
            raise InputError(f"{root}: is a latent pipeline (it has {part}/); these come later")
    if not os.path.isfile(scheduler_file):
        raise InputError(
            f"{scheduler_file}: no such file; save the scheduler the network was trained with there"
        )
    training = _read_scheduler(scheduler_file)
    if learns_variance and training.preconditioning:
        raise InputError(
            f"{config_file}: out_channels is twice in_channels, but a network of EDM learns no "
            "variance"
        )
    network = _load_weights(config_file.parent, device, dtype)
    model = UNetDenoiser(network, shape, training, learns_variance, classes)
    try:
        one = torch.zeros((1, *shape), device=device, dtype=dtype)
        level = torch.ones(1, device=device)
        label = None if classes is None else torch.zeros(1, device=device, dtype=torch.int64)
        got = tuple(model(one, level, level, label).shape[1:])
    except Exception as error:
        raise InputError(
            f"{config_file}: the network can't evaluate a sample of shape {shape} as {dtype} on "
            f"{device}; check sample_size, the dtype and the device ({_reason(error)})"
        ) from error
    if got != ((2 if learns_variance else 1) * shape[0], *shape[1:]):
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


def _read_network(file: Path) -> tuple[tuple[int, int, int], bool, int | None]:
    """Return sample shape, whether the variance is learned, and the number of classes."""
    config = _read_json(file)
    name = config.get("_class_name")
    if name != "UNet2DModel":
        raise InputError(
            f"{file}: _class_name is {name}, but only UNet2DModel can be loaded; "
            "text-conditional pipelines and other networks come later"
        )
    embedded, classes = config.get("class_embed_type"), config.get("num_class_embeds")
    if embedded is not None:
        raise InputError(
            f"{file}: class_embed_type is {embedded}; only labels can be given, so use a network "
            "with num_class_embeds alone"
        )
    if classes is not None and (type(classes) is not int or classes < 1):
        raise InputError(f"{file}: num_class_embeds is {classes}; give the number of classes")
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
    return (inputs, sides[0], sides[1]), outputs != inputs, classes


def _read_scheduler(file: Path) -> Training:
    """Return what the network predicts, and at which noise levels."""
    config = _read_json(file)
    for key, value, why in UNSUITABLE:
        if config.get(key) == value:
            raise InputError(f"{file}: {key} is {json.dumps(value)}, which is refused: {why}")
    name = config.get("_class_name")
    if name == FLOW:
        return _read_flow(file, config)
    if name in EDM:
        return _read_edm(file, config)
    return _read_betas(file, config)


def _read_flow(file: Path, config: dict[str, Any]) -> Training:
    """Flow matching: the network is told T sigma, from T down."""
    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or steps < 1:
        raise InputError(f"{file}: num_train_timesteps is {steps}; give a positive number of steps")
    shift = config.get("shift", 1.0)
    if shift != 1 or config.get("use_dynamic_shifting"):
        warnings.warn(
            f"{file}: its shift of the noise levels ({shift}) is not taken over; name it among "
            "the settings of the run",
            stacklevel=4,
        )
    return Training("flow", {"training_steps": steps})


def _read_edm(file: Path, config: dict[str, Any]) -> Training:
    """EDM: the network F is told log(sigma) / 4 and preconditioned."""
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise InputError(
            f"{file}: prediction_type is {kind}; known for EDM are epsilon and v_prediction"
        )
    try:
        sigma_data = float(config.get("sigma_data", 0.5))
        sigma_range = float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", 80.0))
        SigmaSchedule(*sigma_range)
    except Exception as error:
        raise InputError(f"{file}: gives no noise levels ({_reason(error)})") from error
    if not 0 < sigma_data < float("inf"):
        raise InputError(f"{file}: sigma_data is {sigma_data:g}; give a positive number")
    preconditioning = Preconditioning(sigma_data, 1 if kind == "epsilon" else -1)
    return Training("denoised", {"sigma_range": sigma_range}, preconditioning)


def _read_betas(file: Path, config: dict[str, Any]) -> Training:
    """DDPM and its descendants: alphas_cumprod (T,), as diffusers computes it."""
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
                stacklevel=4,
            )
    return Training(PREDICTIONS[kind], {"alphas_cumprod": alphas_cumprod})


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
