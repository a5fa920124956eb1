"""Rounds of ParaTAA and of its plain fixed point, and how near they come, in one process.

    python benchmarks/parataa.py --steps 50 --samples 2 ...

takes the flags of ``pint-diffusion sample`` but for --order and --memory, of which it goes through
`CHOICES`. A row of the table has the rounds of the worst sample and their mean, and the greatest
error of a sample against the sequential one, relative in L2.
"""

from __future__ import annotations

import sys

import torch

from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.run import solve, solve_sequentially
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.settings.reading import parse
from pint_diffusion.settings.run import Settings

CHOICES = {
    "plain fixed point": (1, 1),
    "order 20": (20, 1),
    "memory 2": (1, 2),
    "ParaTAA": (20, 2),
    "ParaTAA, memory 3": (20, 3),
}
"""Order and memory."""


def rounds_and_error(settings: Settings, truth: torch.Tensor, denoiser=None):
    """Run; return the rounds of each sample (S,) and its relative error in L2, (S,)."""
    run = solve(plan_of(settings, LocalWorld(), denoiser), LocalWorld())
    apart = (run.samples - truth).double().flatten(1).norm(dim=1)
    return run.stopped_at, (apart / truth.double().flatten(1).norm(dim=1)).numpy()


def main(arguments: list[str], denoiser=None) -> None:
    """Print the table of the run that the flags describe."""
    given = parse(Settings, [*arguments, "--method", "parataa"])
    torch.set_num_threads(given.threads or 1)
    truth = solve_sequentially(plan_of(given, LocalWorld(), denoiser)).samples
    print(f"{'':20}{'rounds':>8}{'mean':>8}{'error':>10}", flush=True)
    for name, (order, memory) in CHOICES.items():
        choice = Settings.from_flat(given.told(), order=order, memory=memory)
        rounds, apart = rounds_and_error(choice, truth, denoiser)
        print(f"{name:20}{rounds.max():8d}{rounds.mean():8.1f}{apart.max():10.1e}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
