"""diffusers checkpoints on disk: a UNet2DModel and the noise levels it was trained on.

The loader reads local safetensors and JSON files only: no network access, no unpickling.
"""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

import torch

from pint_diffusion.errors import InputError
from pint_diffusion.models.diffusers_config import (
    import_diffusers,
    read_json,
    read_network,
    read_scheduler,
)
from pint_diffusion.models.wrap import UNetDenoiser
from pint_diffusion.small_file import refuse_irregular


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
    config = read_json(config_file)
    name = config.get("_class_name")
    if name != "UNet2DModel":
        raise InputError(
            f"{config_file}: _class_name is {name}, but only UNet2DModel can be loaded; "
            "text-conditional and other networks are given by a factory of your own"
        )
    facts = read_network(config, str(config_file))
    for part in ("vae", "vqvae"):
        if os.path.isdir(root / part):
            raise InputError(f"{root}: is a latent pipeline (it has {part}/); these come later")
    if not os.path.isfile(scheduler_file):
        raise InputError(
            f"{scheduler_file}: no such file; save the scheduler the network was trained with there"
        )
    training = read_scheduler(read_json(scheduler_file), str(scheduler_file))
    network = _load_weights(config_file.parent, device, dtype)
    return UNetDenoiser(network, *facts, training, str(config_file))


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
    for file in sorted((*folder.glob("*.safetensors"), *folder.glob("*.json"))):
        try:
            refuse_irregular(file)
        except ValueError as error:
            raise InputError(f"{file} can't be read: {error}") from None
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
        raise InputError(
            f"{folder}: the weights can't be loaded ({type(error).__name__}): they are damaged or "
            "do not fit config.json, so save the network again"
        ) from error
    # diffusers fills missing weights with random numbers and goes on
    odd = [key for kind in ("missing_keys", "unexpected_keys") for key in report[kind]]
    if odd:
        raise InputError(
            f"{folder}: weights and config.json do not belong together: {len(odd)} of the weights "
            f"are missing or unknown, such as {odd[0]}; save the network again"
        )
    return network.eval().requires_grad_(False)
