"""Copies from a device to the host, beside the kernels that run on the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class HostCopy(NamedTuple):
    """A tensor on the host, whose values may still be on their way from the device.

    Attributes
    ----------
    data : Tensor
        On the host.
    copied : torch.cuda.Event or None
        Is reached once the values are there; None: they are.
    """

    data: Tensor
    copied: torch.cuda.Event | None = None

    def wait(self) -> Tensor:
        """Return the values, once they are there; from any thread."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.data


class SideStream:
    """A stream of a CUDA device that carries copies to the host; on a CPU a plain copy.

    A copy waits for the kernels that were issued before it, and for no kernel after it.

    Parameters
    ----------
    device : torch.device
        The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, data: Tensor, target: Tensor) -> torch.cuda.Event | None:
        """Begin to copy a tensor into pinned host memory.

        Returns
        -------
        torch.cuda.Event or None
            Is reached at the end of the copy; None if it has ended.
        """
        if self._stream is None or not data.is_cuda:
            target.copy_(data)
            return None
        self._stream.wait_stream(torch.cuda.current_stream(data.device))
        with torch.cuda.stream(self._stream):
            target.copy_(data, non_blocking=True)
        data.record_stream(self._stream)  # else its memory could be another tensor's too early
        return self._stream.record_event()

    def to_host(self, data: Tensor) -> HostCopy:
        """Begin to copy a tensor to pinned host memory; one on the host is taken as it is."""
        if not data.is_cuda:
            return HostCopy(data)
        target = torch.empty(data.shape, dtype=data.dtype, pin_memory=True)
        return HostCopy(target, self.copy(data, target))


def bind_thread(device: torch.device) -> None:
    """Let the calling thread use a CUDA device.

    A thread begins with device 0 as its own. To ask for a CUDA event there would make a context on
    device 0, of some hundred megabytes, for every rank of the host.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
