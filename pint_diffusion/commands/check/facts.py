"""The facts of one rank; all ranks gather them once and judge them alike."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pint_diffusion.errors import InputError
from pint_diffusion.memory import free_memory, free_on
from pint_diffusion.runtime.device import bind_device
from pint_diffusion.runtime.launcher import read_launcher
from pint_diffusion.runtime.world import World


@dataclass(frozen=True)
class Network:
    """A network that a rank has loaded.

    Attributes
    ----------
    size : int
        Bytes of its tensors.
    devices : tuple of str
        Devices of its tensors.
    current : str
        torch's current CUDA device after loading; empty without CUDA.
    problem : str
        Why the rank could not load it; empty if it could.
    """

    size: int = 0
    devices: tuple[str, ...] = ()
    current: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Facts:
    """The facts of one rank: its host, device, cores and memory.

    Attributes
    ----------
    rank, host : int, str
        Number of the rank, and name of its host.
    launcher : str
        Launcher that started it, empty if none did.
    variables : mapping of str to str
        Environment variables that checks read, see `VARIABLES`.
    device, uuid : str
        Device of the rank, and the identifier of that piece of hardware (empty for a CPU).
    problem : str
        Why the rank has no device; empty if it has one.
    cores : frozenset of int
        Cores that the rank may run on.
    host_cores : int
        Number of cores of its host.
    free, device_free : int
        Free bytes of memory on the host and on its CUDA device.
    needed : int
        Least bytes that this rank will take in addition; 0 if not known.
    network : Network or None
        The network, if `check` has loaded one.
    """

    rank: int
    host: str
    launcher: str
    variables: Mapping[str, str]
    device: str
    uuid: str
    problem: str
    cores: frozenset[int]
    host_cores: int
    free: int
    device_free: int
    needed: int = 0
    network: Network | None = None


STRAY_RANKS = ("PMIX_RANK", "PALS_RANKID", "FLUX_TASK_RANK", "JSM_NAMESPACE_RANK")
"""Variables of launchers with the rank of a process, but not the number of ranks."""

VARIABLES = (*STRAY_RANKS, "SLURM_NTASKS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


def collect(
    world: World,
    choice: Literal["auto", "cpu", "cuda"],
    needed: int = 0,
    network: Network | None = None,
) -> Facts:
    """Collect the facts of this process and its host.

    Parameters
    ----------
    world : World
        The processes.
    choice : {"auto", "cpu", "cuda"}
        Kind of device for this rank.
    needed, network : int, Network or None
        See `Facts`.
    """
    import torch

    uuid = problem = ""
    device, device_free = torch.device("cpu"), 0
    try:
        device = bind_device(choice, world.local_rank)
        if device.type == "cuda":
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            device_free = free_on(device)
    except InputError as error:
        problem = str(error)
    except RuntimeError as error:  # of a GPU that is lent to one process, say
        problem = (
            f"the GPU can't be used, {first_line(error)}: start one rank per GPU, and look for "
            "other programs on it with nvidia-smi"
        )
    launcher = read_launcher()
    return Facts(
        rank=world.rank,
        host=world.host,
        launcher=launcher.name if launcher else "",
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        device=str(device),
        uuid=uuid,
        problem=problem,
        cores=frozenset(os.sched_getaffinity(0)),
        host_cores=os.cpu_count() or 1,
        free=free_memory(),
        device_free=device_free,
        needed=needed,
        network=network,
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error, without the advice that follows in errors of CUDA."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def by_host(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Return the facts of each host's ranks, hosts in the order of their first ranks."""
    hosts: dict[str, list[Facts]] = {}
    for one in facts:
        hosts.setdefault(one.host, []).append(one)
    return hosts


def ranks_of(facts: Iterable[Facts]) -> str:
    """Return names of ranks: ``rank 3``, ``ranks 0, 1``, ``ranks 0, 1 and 6 more``."""
    numbers = [str(one.rank) for one in facts]
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    more = f" and {len(numbers) - 3} more" if len(numbers) > 4 else ""
    return f"ranks {', '.join(numbers[:3] if more else numbers)}{more}"
