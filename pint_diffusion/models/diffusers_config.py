"""What the configuration of a diffusers network and of its scheduler tell of its training.

``where`` is what error messages call a configuration: the file that it was read from, or what the
object is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pint_diffusion.errors import InputError, reason
from pint_diffusion.grid import NoiseSchedule, SigmaSchedule
from pint_diffusion.models.preconditioning import Preconditioning
from pint_diffusion.numerics.prediction import PredictionType
from pint_diffusion.small_file import read_small_file

PREDICTIONS: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "sample",
    "flow_prediction": "flow",
}
"""Forms of output by the names that diffusers gives them."""

SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")

UNSUITABLE: tuple[tuple[str, Any, str], ...] = (
    ("rescale_betas_zero_snr", True, "it makes alpha_bar zero, where x0 can't be recovered"),
    ("use_flow_sigmas", True, "save a FlowMatchEulerDiscreteScheduler with a flow network"),
    ("invert_sigmas", True, "the network would be told 1 - sigma"),
    ("timestep_type", "continuous", "networks that are told log(sigma) come later"),
)
"""Scheduler settings that give the network a wrong level: key, value, reason."""

IGNORED = ("clip_sample", "thresholding")
"""Scheduler settings that change the sampler's steps, not what the network was trained on."""

FLOW = "FlowMatchEulerDiscreteScheduler"
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")


@dataclass(frozen=True)
class Training:
    """The network's training, as its scheduler's configuration states it.

    Attributes
    ----------
    prediction : PredictionType
        Form of the output, see `Denoiser`.
    levels : dict
        The attribute with the noise levels, see `pint_diffusion.models.denoiser.schedule_of`.
    preconditioning : Preconditioning, optional
        Wrapper of an EDM network.
    notes : tuple of str
        What of the configuration is not taken over.
    """

    prediction: PredictionType
    levels: dict[str, Any]
    preconditioning: Preconditioning | None = None
    notes: tuple[str, ...] = ()


def read_network(
    config: Mapping[str, Any], where: str
) -> tuple[tuple[int, int, int], bool, int | None]:
    """Read the configuration of a network that is called as (x, t), or (x, t, class_labels=...).

    Returns
    -------
    shape : tuple of int
        (channels, height, width) of a sample.
    learns_variance : bool
        Whether it gives twice the channels of a sample.
    classes : int or None
        Number of class embeddings.

    Raises
    ------
    InputError
        If it tells of a network that can't be sampled from.
    """
    embedded, classes = config.get("class_embed_type"), config.get("num_class_embeds")
    if embedded is not None:
        raise InputError(
            f"{where}: class_embed_type is {embedded}; only labels can be given, so use a network "
            "with num_class_embeds alone"
        )
    if classes is not None and (type(classes) is not int or classes < 1):
        raise InputError(f"{where}: num_class_embeds is {classes}; give the number of classes")
    embedding = config.get("time_embedding_type", "positional")
    if embedding != "positional":
        raise InputError(
            f"{where}: time_embedding_type is {embedding}; "
            "only positional takes timesteps between the training steps"
        )
    size = config.get("sample_size")
    sides: list[Any] = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise InputError(
            f"{where}: sample_size is {size}; set it to the pictures' size, or [height, width]"
        )
    inputs, outputs = config.get("in_channels", 3), config.get("out_channels", 3)
    if type(inputs) is not int or inputs < 1 or outputs not in (inputs, 2 * inputs):
        raise InputError(
            f"{where}: in_channels is {inputs} and out_channels is {outputs}; a sampler needs as "
            "many out as in, or twice as many where the variance is learned"
        )
    return (inputs, sides[0], sides[1]), outputs != inputs, classes


def read_scheduler(config: Mapping[str, Any], where: str) -> Training:
    """Read the configuration of the scheduler that the network was trained with.

    Raises
    ------
    InputError
        If it tells of noise levels that can't be sampled from.
    """
    for key, value, why in UNSUITABLE:
        if config.get(key) == value:
            raise InputError(f"{where}: {key} is {json.dumps(value)}, which is refused: {why}")
    name = config.get("_class_name")
    if name == FLOW:
        return _read_flow(config, where)
    if name in EDM:
        return _read_edm(config, where)
    return _read_betas(config, where)


def _read_flow(config: Mapping[str, Any], where: str) -> Training:
    """Flow matching: the network is told T sigma, from T down."""
    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or steps < 1:
        raise InputError(
            f"{where}: num_train_timesteps is {steps}; give a positive number of steps"
        )
    shift = config.get("shift", 1.0)
    shifted = shift != 1 or config.get("use_dynamic_shifting")
    note = (
        f"{where}: its shift of the noise levels ({shift}) is not taken over; name it among the "
        "settings of the run"
    )
    return Training("flow", {"training_steps": steps}, notes=(note,) if shifted else ())


def _read_edm(config: Mapping[str, Any], where: str) -> Training:
    """EDM: the network F is told log(sigma) / 4 and preconditioned."""
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise InputError(
            f"{where}: prediction_type is {kind}; known for EDM are epsilon and v_prediction"
        )
    try:
        sigma_data = float(config.get("sigma_data", 0.5))
        sigma_range = float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", 80.0))
        SigmaSchedule(*sigma_range)
    except Exception as error:
        raise InputError(f"{where}: gives no noise levels ({reason(error)})") from error
    if not 0 < sigma_data < float("inf"):
        raise InputError(f"{where}: sigma_data is {sigma_data:g}; give a positive number")
    preconditioning = Preconditioning(sigma_data, 1 if kind == "epsilon" else -1)
    return Training("denoised", {"sigma_range": sigma_range}, preconditioning)


def _read_betas(config: Mapping[str, Any], where: str) -> Training:
    """DDPM and its descendants: alphas_cumprod (T,), as diffusers computes it."""
    # predict_epsilon: the name of the setting before diffusers 0.10
    default = "sample" if config.get("predict_epsilon") is False else "epsilon"
    kind = str(config.get("prediction_type", default))
    if kind not in PREDICTIONS:
        raise InputError(
            f"{where}: prediction_type is {kind}; known are {', '.join(sorted(PREDICTIONS))}"
        )
    if "num_train_timesteps" not in config or "beta_schedule" not in config:
        raise InputError(
            f"{where}: has no num_train_timesteps or no beta_schedule; "
            "only networks trained on a schedule of betas can be loaded"
        )
    scheduler, _ = import_diffusers()
    given = {key: config[key] for key in SCHEDULE_KEYS if key in config}
    try:
        # as float32 numbers, the ones the diffusers pipelines use
        values = scheduler(**given).alphas_cumprod.to(torch.float64).numpy()
        alphas_cumprod = NoiseSchedule(values).alphas_cumprod
    except Exception as error:
        raise InputError(f"{where}: gives no noise schedule ({reason(error)})") from error
    notes = [
        f"{where}: {key} is true, but the steps taken here never clip, so results differ from the "
        "diffusers pipeline's; set it to false to silence this"
        for key in IGNORED
        if config.get(key)
    ]
    return Training(PREDICTIONS[kind], {"alphas_cumprod": alphas_cumprod}, notes=tuple(notes))


def import_diffusers() -> tuple[Any, Any]:
    """Import DDPMScheduler and UNet2DModel; an `InputError` says how to install diffusers."""
    try:
        from diffusers import DDPMScheduler, UNet2DModel
    except (ImportError, RuntimeError) as error:
        raise InputError(
            "a checkpoint needs diffusers, which can't be imported: "
            f"pip install 'pint-diffusion[diffusers]' ({reason(error)})"
        ) from error
    return DDPMScheduler, UNet2DModel


def read_json(file: Path) -> dict[str, Any]:
    """Read a configuration that diffusers has saved.

    Raises
    ------
    InputError
        If the file can't be read, or holds something else.
    """
    try:
        config = json.loads(read_small_file(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: can't be read as JSON ({reason(error)})") from error
    if not isinstance(config, dict):
        raise InputError(f"{file}: holds no JSON object; write it again with save_pretrained")
    return config
