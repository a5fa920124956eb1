"""Devices: which one a rank computes on, in which dtype, with how many threads."""

from __future__ import annotations

import ctypes
import os
import warnings
from typing import Literal

import torch
from torch.backends import cuda, cudnn

from pint_diffusion.errors import InputError

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Dtypes of the network by their name on the command line."""


Attention = Literal["auto", "flash", "efficient", "cudnn", "math"]
ATTENTIONS = {
    "flash": (cuda.enable_flash_sdp, cuda.flash_sdp_enabled),
    "efficient": (cuda.enable_mem_efficient_sdp, cuda.mem_efficient_sdp_enabled),
    "cudnn": (cuda.enable_cudnn_sdp, cuda.cudnn_sdp_enabled),
    "math": (cuda.enable_math_sdp, cuda.math_sdp_enabled),
}
"""Kernels for scaled dot products: what allows one, and what tells whether it is allowed."""


def bind_device(choice: str, local_rank: int) -> torch.device:
    """Choose this rank's device, see `find_device`, and make it torch's current one."""
    device = find_device(choice, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def find_device(choice: str, local_rank: int) -> torch.device:
    """Choose this rank's device: node-local rank modulo visible devices.

    Parameters
    ----------
    choice : {"auto", "cpu", "cuda"}
        ``auto`` takes CUDA where there is one.
    local_rank : int
        Rank among the processes of this host; the global rank would be wrong on a second host.

    Raises
    ------
    InputError
        If CUDA was asked for and there is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if choice == "cuda" and not devices:
        raise InputError(
            "`device` cuda, but torch sees no CUDA device here: use `device` cpu, or check "
            "the driver, CUDA_VISIBLE_DEVICES and that torch is a CUDA build"
        )
    if choice == "cpu" or not devices:
        return torch.device("cpu")
    return torch.device("cuda", local_rank % devices)


def check_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of that name if convolutions and products in it run on the device.

    Raises
    ------
    InputError
        If they do not.
    """
    dtype = DTYPES[name]
    try:
        one = torch.ones(1, 1, 4, 4, dtype=dtype, device=device)
        torch.nn.functional.conv2d(one, one)
        torch.mm(one[0, 0], one[0, 0])
        supported = (
            dtype != torch.bfloat16 or device.type == "cpu" or torch.cuda.is_bf16_supported()
        )
    except RuntimeError:
        supported = False
    if not supported:
        raise InputError(f"`dtype` {name} is not supported on {device}: use float32")
    return dtype


def set_threads(threads: int | None, batching_off: bool, cores: int, local_size: int) -> int:
    """Set torch's CPU threads and return their number.

    A network's last bits depend on the number of threads, so with batching off, where the bits
    are promised to be the same on any rank count, it is 1 unless the user says otherwise; else
    the ``local_size`` ranks of a host share its ``cores``.

    Raises
    ------
    InputError
        If the user asks for more threads than the machine has cores.
    """
    if threads is None:
        threads = 1 if batching_off else max(1, cores // local_size)
    if threads > (os.cpu_count() or 1):
        raise InputError(f"`threads` {threads} is more than this host's {os.cpu_count()} cores")
    torch.set_num_threads(threads)
    return threads


def keep_memory() -> None:
    """Let the C library keep freed memory for the next states, where it is glibc.

    By default it hands the memory of a state of some megabytes back to the kernel, which clears it
    page by page for the next one: that takes longer than the arithmetic of a solver's step.
    """
    trim_threshold, mmap_threshold, greatest = -1, -3, 2**25  # malloc.h; more is refused
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(mmap_threshold, greatest)
        mallopt(trim_threshold, 2**31 - 1)


def set_precision(tf32: bool, attention: Attention) -> None:
    """Fix for this process what else would follow from torch's defaults, which differ by version.

    Parameters
    ----------
    tf32 : bool
        Round float32 products and convolutions to 10 bits on a GPU, as cuDNN does by default.
    attention : {"auto", "flash", "efficient", "cudnn", "math"}
        The only kernel for scaled dot products that is allowed; ``auto`` allows all.
    """
    cuda.matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    for name, (allow, _) in ATTENTIONS.items():
        allow(attention in ("auto", name))


def precision() -> str:
    """Say how float32 products and attention are computed on a GPU, as torch is set now."""
    tf32 = dict.fromkeys((cuda.matmul.allow_tf32, cudnn.allow_tf32))
    allowed = [name for name, (_, is_allowed) in ATTENTIONS.items() if is_allowed()]
    attention = "auto" if len(allowed) == len(ATTENTIONS) else "+".join(allowed)
    return f"tf32 {'/'.join('on' if one else 'off' for one in tf32)}, attention {attention}"


def rounding(dtype: torch.dtype, device: torch.device) -> float:
    """Return by which share of its size a network's answer may change from kernel to kernel.

    It is a generous guess: kernels are chosen by shapes and devices, and deep networks add up what
    each of them rounds off.
    """
    tf32 = device.type == "cuda" and (cuda.matmul.allow_tf32 or cudnn.allow_tf32)
    known = {torch.float64: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
    return known.get(dtype, 2e-2 if tf32 else 1e-3)
