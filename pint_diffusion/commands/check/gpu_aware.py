"""GPU-aware MPI: whether the library claims it, and whether that is true.

A run does not depend on it: states go through pinned host memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pint_diffusion.commands.check.facts import Facts
from pint_diffusion.commands.check.finding import Finding
from pint_diffusion.runtime.talk import Silence, Talk

VALUES = 1 << 16
CUDA = 0
"""MPIX_GPU_SUPPORT_CUDA of MPICH."""


def claims(talk: Talk) -> str:
    """Return the call by which the MPI library claims to take CUDA pointers; empty if none."""
    if "cuda" in talk.memory_kinds:
        return "mpi_memory_alloc_kinds"
    for library in _libraries():
        try:
            loaded = ctypes.CDLL(library)
        except OSError:
            continue
        if hasattr(loaded, "MPIX_Query_cuda_support") and loaded.MPIX_Query_cuda_support():
            return "MPIX_Query_cuda_support"
        if hasattr(loaded, "MPIX_GPU_query_support"):
            answer = ctypes.c_int(0)
            wrong = loaded.MPIX_GPU_query_support(ctypes.c_int(CUDA), ctypes.byref(answer))
            if not wrong and answer.value:
                return "MPIX_GPU_query_support"
    return ""


def _libraries() -> list[str]:
    """Return the files of the MPI libraries that this process has loaded."""
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(path for path in mapped if "/libmpi" in path and ".so" in path)


def gpu_aware(talk: Talk, facts: Sequence[Facts]) -> Iterator[Finding]:
    """Send a CUDA tensor between two ranks if the library claims that it can, and compare it."""
    if talk.size == 1:
        return
    claim = talk.gather(claims(talk))[0]
    on_gpus = [one.rank for one in facts if one.uuid]
    works: bool | str | None = None
    if claim and len(on_gpus) > 1:
        sender, receiver = on_gpus[:2]
        mine: bool | str | None = None
        if talk.rank in (sender, receiver):
            try:
                mine = exchange(talk, sender, receiver, torch.device(facts[talk.rank].device))
            except Silence:
                mine = "it did not arrive"
            except Exception as error:
                mine = str(error)
        results = talk.gather(mine)
        works = results[receiver] if results[sender] is True else results[sender]
    yield judge_gpu_aware(claim, works)


def exchange(talk: Talk, sender: int, receiver: int, device: torch.device) -> bool:
    """Send a tensor on the device; return on the receiver whether it arrived unchanged."""
    expected = torch.arange(VALUES, dtype=torch.float32, device=device)
    if talk.rank == sender:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        talk.wait(talk.start_send(expected, receiver), expected)
        return True
    came = torch.zeros_like(expected)
    talk.wait(talk.start_receive(came, sender), came)
    return torch.equal(came, expected)


def judge_gpu_aware(claim: str, works: bool | str | None) -> Finding:
    """Judge the library's claim and the test of it (None: there was no test)."""
    name = "GPU-aware MPI"
    if not claim:
        return Finding(name, "ok", "no; not needed, states go through pinned host memory")
    if works is None:
        found = f"{claim} says yes; not tested, since fewer than two ranks have a GPU"
        return Finding(name, "ok", found)
    if works is True:
        return Finding(name, "ok", f"{claim} says yes, and a tensor arrived unchanged; not used")
    reason = works or "a tensor arrived changed"
    found = f"{claim} says yes, but between two ranks {reason}"
    to_do = "runs do not use it; other programs on this library should not either"
    return Finding(name, "warn", found, to_do)
