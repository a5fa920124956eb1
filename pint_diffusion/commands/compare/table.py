"""The comparison as a table, as files, and as a figure."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pint_diffusion.commands.compare.measure import Measured
from pint_diffusion.report.figure import new_figure


@dataclass(frozen=True)
class Row:
    """One entry, measured in one way.

    Attributes
    ----------
    name : str
        Of the entry.
    rule : {"own", "equal error"}
        Whether it stopped by its own rule or was brought to the common error.
    measured : Measured or None
        None if the error was not reached.
    on_devices : dict of int to float
        Seconds on so many devices, by the measured cost of batches.
    tuned : bool
        False for the sequential sampler, which has no error.
    """

    name: str
    rule: str
    measured: Measured | None
    on_devices: Mapping[int, float]
    tuned: bool


HEAD = ("method", "rule", "rounds", "deep", "evaluations", "held", "MB sent", "rel. L2",
        "worst sample", "max", "mean / 255", "wall s")  # fmt: skip


def render(rows: Sequence[Row], devices: Sequence[int]) -> str:
    """Render lines of text, one for each row, without a newline at the end."""
    lines = [[*HEAD, *(f"s on {p}" for p in devices)]]
    lines += [_cells(row, devices) for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row, devices: Sequence[int]) -> list[str]:
    found = row.measured
    if found is None:
        return [row.name, row.rule, "not reached", *[""] * (len(HEAD) - 3 + len(devices))]
    wall = f"{found.wall:.3g}" if found.wall else "-"
    return [
        *(row.name, row.rule + ("" if found.converged or row.rule != "own" else " (not met)")),
        *map(str, (found.rounds, found.deep, found.evaluations, found.held)),
        *(f"{found.bytes / 1e6:.3g}", f"{found.error:.2g}", f"{found.worst_sample:.2g}"),
        *(f"{found.worst:.2g}", f"{found.mean:.2g}", wall),
        *(f"{row.on_devices[p]:.3g}" if p in row.on_devices else "-" for p in devices),
    ]


def write_files(rows: Sequence[Row], about: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write compare.csv and compare.json, and return their paths."""
    flat = []
    for row in rows:
        found = asdict(row.measured) if row.measured else {}
        for name in ("in_a_row", "errors"):
            found.pop(name, None)
        seconds = {f"seconds_on_{p}": time for p, time in row.on_devices.items()}
        flat.append({"method": row.name, "rule": row.rule, **found, **seconds})
    names = list(dict.fromkeys(name for row in flat for name in row))
    paths = [folder / "compare.csv", folder / "compare.json"]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(flat)
    paths[1].write_text(json.dumps({**about, "rows": flat}, indent=1), encoding="utf-8")
    return paths


def draw(rows: Sequence[Row], steps: int, target: float, path: Path) -> None:
    """Draw depth against work at equal error, and the time on P devices.

    A family of methods has one colour. On the right it is shown by its best entry on so many
    devices.
    """
    families: dict[str, list[tuple[str, Measured, Mapping[int, float]]]] = {}
    for row in rows:
        if row.measured and (row.rule == "equal error" or not row.tuned):
            name, _, rest = row.name.partition(", ")
            families.setdefault(name, []).append((rest, row.measured, row.on_devices))
    dashed = {row.name for row in rows if not row.tuned}
    figure = new_figure(figsize=(12, 5), dpi=120, layout="constrained")
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    left, right = figure.subplots(1, 2)
    for (name, entries), marker in zip(families.items(), "*osD^vPX", strict=False):
        style: dict[str, Any] = {"marker": marker, "label": name, "color": f"C{len(left.lines)}"}
        work = [found.evaluations for _, found, _ in entries]
        left.plot(work, [found.deep for _, found, _ in entries], linestyle="none", **style)
        for i, (rest, found, _) in enumerate(entries):
            at = (found.evaluations, found.deep)
            text = rest.removesuffix(" points").removesuffix(" cores")
            beside, side = ((-3, -11), "right") if i % 2 else ((4, 4), "left")
            left.annotate(text, at, beside, textcoords="offset points", fontsize=7, ha=side)
        counts = sorted({devices for *_, times in entries for devices in times})
        best = [
            min(times[devices] for *_, times in entries if devices in times) for devices in counts
        ]
        right.plot(counts, best, linestyle="--" if name in dashed else "-", **style)
    for axes, x, y in (
        (left, "evaluations in all", "evaluations one after another"),
        (right, "devices", "seconds, by the measured cost of calls"),
    ):
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter("")
        axes.grid(which="both", alpha=0.25)
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    figure.suptitle(f"N = {steps}, every method at a relative L2 error of at most {target:g}")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=9)
    figure.savefig(path)
