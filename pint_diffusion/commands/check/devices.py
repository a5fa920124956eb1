"""Devices: which rank computes where, and what looks wrong about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pint_diffusion.commands.check.facts import Facts, ranks_of
from pint_diffusion.commands.check.finding import Finding
from pint_diffusion.memory import amount


def places(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Yield one row for every rank: its host, device and cores."""
    for one in facts:
        where = f"{one.device} {one.uuid}".strip()
        found = f"host {one.host}, device {where}, {len(one.cores)} cores"
        yield Finding(f"rank {one.rank}", "ok", found)


def missing(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Find ranks without a GPU where the settings ask for one, or where other ranks have one."""
    blind = [one for one in facts if one.problem]
    if blind:
        where = f"{ranks_of(blind)} on {blind[0].host}: " if len(facts) > 1 else ""
        found, _, to_do = blind[0].problem.rpartition(": ")
        yield Finding("device", "fail", where + found, to_do)
        return
    on_cpu = [one for one in facts if one.device == "cpu"]
    if on_cpu and len(on_cpu) < len(facts):
        first = on_cpu[0]
        visible = first.variables.get("CUDA_VISIBLE_DEVICES")
        why = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible} there)"
        hint = "check its driver, or use --device cpu"
        if visible == str(first.rank):
            hint = "that is its global rank; number devices by the rank on the host, or not at all"
        found = f"{ranks_of(on_cpu)} on {first.host} see no GPU{why}, and others do"
        yield Finding("device", "fail", found, hint)


def shared_gpus(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Warn of several ranks on one GPU: the run is right, but they take turns."""
    gpus: dict[str, list[Facts]] = {}
    for one in facts:
        if one.uuid:
            gpus.setdefault(one.uuid, []).append(one)
    for sharing in gpus.values():
        if len(sharing) > 1:
            yield Finding(
                "GPU",
                "warn",
                f"{ranks_of(sharing)} share {sharing[0].device} of {sharing[0].host}",
                "start one rank per GPU (with Slurm: --gpus-per-task=1); fine for a trial",
            )


def network(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Check that a loaded network is on the device of its rank."""
    loaded = [one for one in facts if one.network is not None]
    if not loaded:
        return
    for one in loaded:
        assert one.network is not None
        who = f"rank {one.rank} on {one.host}"
        if one.network.problem:
            ordinal = "ordinal" in one.network.problem
            hint = "a factory must use the device it is given, and no number of its own"
            yield Finding(
                "network", "fail", f"{who}: {one.network.problem}", hint if ordinal else ""
            )
            return
        strays = [device for device in one.network.devices if device != one.device]
        if not strays and one.network.current not in ("", one.device):
            strays = [one.network.current]
        if strays:
            index = strays[0].partition(":")[2]
            why = ", which is its global rank" if index == str(one.rank) else ""
            yield Finding(
                "network",
                "fail",
                f"{who} was bound to {one.device}, but its network uses {strays[0]}{why}",
                "put the network on the device that the factory is given, and do not call "
                "torch.cuda.set_device",
            )
            return
    assert loaded[0].network is not None
    found = f"{amount(loaded[0].network.size)} on each rank, where it was bound to"
    yield Finding("network", "ok", found)
