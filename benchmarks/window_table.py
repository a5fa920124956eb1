"""Rounds at equal error on 4, 8 and 32 devices: the table of docs/window.md.

    python benchmarks/window_table.py table.csv [--model ...] [--samples 4] ...

Takes the flags of ``pint-diffusion compare``. One process, every method brought to the error
``--target`` as `compare` does. Each run appends a line, and those that the file already has are
left out. What is counted is how many evaluations a device makes one after another if no device
makes two at once and messages cost nothing.
"""

from __future__ import annotations

import csv
import sys
from math import isqrt
from pathlib import Path

import pint_diffusion as pd
from pint_diffusion.commands.compare.entries import Entry
from pint_diffusion.commands.compare.measure import Bench
from pint_diffusion.runtime.device import set_threads
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.settings.compare import Compare
from pint_diffusion.settings.reading import parse

STEPS = (25, 50, 100, 400)


def contenders(steps, devices):
    """Family and entry of methods on so many devices; of one family the best counts."""
    size = min(devices, steps)
    yield "window", Entry("window", pd.Window(size))
    yield "paradigms", Entry("ParaDiGMS", pd.ParaDiGMS(size))
    yield "parataa", Entry("ParaTAA", pd.ParaTAA(size))
    cores = min(devices, steps // 2)
    yield "chords", Entry("CHORDS", pd.Chords(cores), "iterations")
    yield "piadm", Entry("PIADM", pd.PIADM(slices=-(-steps // devices)))
    yield "piadm", Entry("PIADM, diagonal", pd.PIADM(schedule="diagonal"))
    for slices in sorted({size, *(min(size, isqrt(k * steps)) for k in range(1, 5))}):
        yield "srds", Entry("SRDS", pd.Parareal("slice", slices=slices), "iterations")


def main() -> None:
    """Run what is missing in the file: N, devices, method, options, depth, evaluations, error."""
    path, *flags = sys.argv[1:]
    table = Path(path)
    done = {tuple(row[:4]) for row in csv.reader(table.open())} if table.exists() else set()
    common = parse(Compare, flags)
    set_threads(common.threads, common.batching == "off", 1, 1)
    for steps in STEPS:
        bench = Bench(common.model_copy(update={"steps": steps}), LocalWorld())
        for devices in common.devices:
            for family, entry in contenders(steps, devices):
                key = (str(steps), str(devices), entry.name, repr(entry.method))
                if key in done or family not in (common.methods or family):
                    continue
                if bench.truth is None:
                    bench.run(pd.Sequential())
                found = bench.tune(entry, common.target, bench.run(entry.method))
                if found is None:
                    row = [*key, "", "", ""]
                elif entry.tuned == "iterations":
                    row = [*key, found.deep, found.evaluations, found.error]
                else:
                    depth = sum(-(-count // devices) for count in found.in_a_row)
                    row = [*key, depth, found.evaluations, found.error]
                with table.open("a", newline="") as file:
                    csv.writer(file).writerow(row)
                print(*row, flush=True)


if __name__ == "__main__":
    main()
