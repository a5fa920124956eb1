"""diffusers checkpoints on disk: a UNet2DModel and the noise levels it was trained on.

The loader reads local safetensors and JSON files only: no network access, no unpickling.
"""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from pint_diffusion.errors import InputError, reason
from pint_diffusion.models.diffusers_config import (
    Training,
    import_diffusers,
    read_network,
    read_scheduler,
)
from pint_diffusion.numerics.prediction import PredictionType


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
        Device of the network.
    dtype : torch.dtype
        Floating type of weights, states and results.

    Raises
    ------
    InputError
        If diffusers is missing, or if anything in the folder is missing, broken or of a kind that
        this package can't sample from.
    """
    root = Path(path)
    config_file, scheduler_file = _locate(root)
    shape, learns_variance, classes = read_network(config_file)
    for part in ("vae", "vqvae"):
        if os.path.isdir(root / part):
            raise InputError(f"{root}: is a latent pipeline (it has {part}/); these come later")
    if not os.path.isfile(scheduler_file):
        raise InputError(
            f"{scheduler_file}: no such file; save the scheduler the network was trained with there"
        )
    training = read_scheduler(scheduler_file)
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
            f"{device}; check sample_size, the dtype and the device ({reason(error)})"
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


def _load_weights(folder: Path, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    _, unet = import_diffusers()
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
        raise InputError(f"{folder}: the weights can't be loaded ({reason(error)})") from error
    # diffusers fills missing weights with random numbers and goes on
    odd = [key for kind in ("missing_keys", "unexpected_keys") for key in report[kind]]
    if odd:
        raise InputError(
            f"{folder}: weights and config.json do not belong together: {len(odd)} of the weights "
            f"are missing or unknown, such as {odd[0]}; save the network again"
        )
    return network.eval().requires_grad_(False)
