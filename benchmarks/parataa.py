"""Rounds of ParaTAA and of its plain fixed point, and how near they come, in one process.

    python benchmarks/parataa.py --steps 50 --samples 2 ...

takes the flags of ``pint-diffusion sample`` but for --order and --memory, of which it goes through
`CHOICES`. A row of the table has the rounds of the worst sample and their mean, and the greatest
error of a sample against the sequential one, relative in L2.
"""

from __future__ import annotations

import sys

import torch

import pint_diffusion as pd
from pint_diffusion.build.from_settings import sampling_of
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


def main() -> None:
    """Print the table of the run that the flags describe."""
    settings = parse(Settings, ["--method", "parataa", *sys.argv[1:]])
    torch.set_num_threads(settings.threads or 1)
    given = vars(sampling_of(settings, settings.method, LocalWorld()))
    truth = pd.sample(**given | {"method": pd.Sequential()}, comm=None).samples.flatten(1).double()
    print(f"{'':20}{'rounds':>8}{'mean':>8}{'error':>10}", flush=True)
    for name, (order, memory) in CHOICES.items():
        method = settings.method.model_copy(update={"order": order, "memory": memory})
        run = pd.sample(**given | {"method": method}, comm=None)
        apart = (run.samples.flatten(1) - truth).norm(dim=1) / truth.norm(dim=1)
        rounds = run.stopped_at
        print(f"{name:20}{rounds.max():8d}{rounds.mean():8.1f}{apart.max():10.1e}", flush=True)


if __name__ == "__main__":
    main()
