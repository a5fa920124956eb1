"""What the ranks of a run must have alike."""

from __future__ import annotations

import hashlib

from pint_diffusion.build.plan import Plan
from pint_diffusion.errors import InputError
from pint_diffusion.runtime.device import precision
from pint_diffusion.runtime.world import World


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
        On every rank, naming the first rank that differs from rank 0.
    """
    asked, problem = plan.asked, plan.problem
    options = asked.method, asked.solver, asked.coarse.steps, asked.coarse.noise, asked.corrector
    digest = hashlib.sha256(repr((options, asked.seed, asked.batching, asked.dtype)).encode())
    digest.update(more.encode())
    for network in (evaluator.denoiser for evaluator in plan.evaluators):
        digest.update(repr((problem.grid, network.shape, network.prediction)).encode())
    digest.update(problem.coarse.name.encode())
    digest.update(problem.noise.cpu().numpy().tobytes())
    seen = world.gather((digest.hexdigest(), asked.device.type, precision(), world.host))
    for rank, (read, device, rounding, host) in enumerate(seen):
        if read != seen[0][0]:
            raise InputError(
                f"rank {rank} on {host} has other settings or another model than rank 0: give all "
                "ranks the same files, by absolute paths"
            )
        if device != seen[0][1]:
            raise InputError(
                f"rank {rank} on {host} would compute on {device} and rank 0 on {seen[0][1]}: use "
                "`device` cpu, or find out with 'pint-diffusion check' why that host sees no GPU"
            )
        if rounding != seen[0][2]:
            raise InputError(
                f"torch of rank {rank} on {host} is set to {rounding} and that of rank 0 to "
                f"{seen[0][2]}: set it alike on all ranks"
            )
