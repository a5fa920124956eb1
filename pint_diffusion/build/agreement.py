"""What the ranks of a run must have alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from operator import eq
from typing import NamedTuple, TypeVar

from pint_diffusion.build.plan import Plan
from pint_diffusion.errors import InputError
from pint_diffusion.runtime.device import precision
from pint_diffusion.runtime.world import World

T = TypeVar("T")


class Odd(NamedTuple):
    """A rank that has something else than others: most of them, or rank 0."""

    rank: int
    than: int
    others: str


def odd_one(values: Sequence[T], same: Callable[[T, T], bool] = eq) -> Odd | None:
    """Find the first rank whose value is not that of most ranks, or of rank 0 if most have none.

    Parameters
    ----------
    values : sequence
        Of each rank.
    same : callable
        Whether two values are the same.
    """
    most, votes = 0, 0
    for rank, value in enumerate(values):  # a value of more than half of the ranks outlasts others
        if not votes:
            most = rank
        votes += 1 if same(values[most], value) else -1
    many = sum(same(values[most], value) for value in values) * 2 > len(values)
    than, others = (most, "most ranks") if many else (0, "rank 0")
    for rank, value in enumerate(values):
        if not same(values[than], value):
            return Odd(rank, than, others)
    return None


def refuse_differences(plan: Plan, world: World, more: str = "") -> None:
    """Refuse a run whose ranks were given different things, or compute on unlike devices.

    Parameters
    ----------
    plan : Plan
        Of this rank.
    world : World
        The ranks.
    more : str
        What else must be the same.

    Raises
    ------
    InputError
        On every rank, naming a rank that differs.
    """
    if world.size == 1:
        return
    asked, problem = plan.asked, plan.problem
    options = asked.method, asked.solver, asked.coarse.steps, asked.coarse.noise, asked.corrector
    digest = hashlib.sha256(repr((options, asked.seed, asked.batching, asked.dtype)).encode())
    digest.update(more.encode())
    for network in (evaluator.denoiser for evaluator in plan.evaluators):
        digest.update(repr((problem.grid, network.shape, network.prediction)).encode())
    digest.update(problem.coarse.name.encode())
    mine = digest.hexdigest(), asked.device.type, precision(), plan.fingerprint, world.host
    read, devices, roundings, networks, hosts = zip(*world.gather(mine), strict=True)
    if odd := odd_one(read):
        raise InputError(
            f"rank {odd.rank} on {hosts[odd.rank]} has other settings or another model than "
            f"{odd.others}: give all ranks the same files, by absolute paths"
        )
    if odd := odd_one(devices):
        raise InputError(
            f"rank {odd.rank} on {hosts[odd.rank]} would compute on {devices[odd.rank]} and "
            f"{odd.others} on {devices[odd.than]}: use `device` cpu, or find out with "
            "'pint-diffusion check' why a host sees no GPU"
        )
    if odd := odd_one(roundings):
        raise InputError(
            f"torch of rank {odd.rank} on {hosts[odd.rank]} is set to {roundings[odd.rank]} and "
            f"that of {odd.others} to {roundings[odd.than]}: set it alike on all ranks"
        )
    if odd := odd_one(networks):
        refuse_weights(odd, hosts[odd.rank], world.gather(plan.weights))


def refuse_weights(odd: Odd, host: str, weights: Sequence[dict[str, str]]) -> None:
    """Say in which tensor a rank differs from the others.

    Parameters
    ----------
    odd : Odd
        The rank.
    host : str
        Its host.
    weights : sequence of dict
        `Plan.weights` of each rank.

    Raises
    ------
    InputError
        In any case.
    """
    its, theirs = weights[odd.rank], weights[odd.than]
    named = {**theirs, **its}
    names = [name for name in named if its.get(name) != theirs.get(name)]
    if not names:
        raise InputError(
            f"rank {odd.rank} on {host} begins with other noise than {odd.others}: give all ranks "
            "the same `noise`"
        )
    which = f"{len(names)} of {len(named)} tensors differ, such as {names[0] or 'the only one'}"
    raise InputError(
        f"the network of rank {odd.rank} on {host} has other weights than that of {odd.others} "
        f"({which}): let all ranks load the same file, by an absolute path, and set a seed before "
        "weights are drawn"
    )
