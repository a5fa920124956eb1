"""Draw docs/images/error_per_iteration.png from the tables of docs/networks.md.

python benchmarks/draw_errors.py
"""

from __future__ import annotations

import re
from math import nan
from pathlib import Path

from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1] / "docs"
STYLES = {
    "serial": {
        "marker": "x",
        "markersize": 7,
        "markeredgewidth": 1.6,
        "linestyle": "",
        "zorder": 3,
    },
    "median": {"marker": "", "linestyle": "--"},
    "leading": {"marker": "^"},
    "none": {"marker": "s", "linestyle": ":"},
}


def tables(text: str) -> dict[str, dict[str, tuple[float, ...]]]:
    """Read the tables whose first column is k, by the title of their section.

    A table is column -> values, nan where a cell is empty.
    """
    found = {}
    for title, section in re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", text, re.MULTILINE):
        for block in re.findall(r"(?:^\|.*\|\n)+", section, re.MULTILINE):
            rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
            if rows[0][0] == "k":
                columns = ([float(cell or nan) for cell in row] for row in rows[2:])
                found[title] = dict(zip(rows[0], zip(*columns, strict=True), strict=True))
    return found


def main() -> None:
    """Draw one panel per table."""
    panels = tables((DOCS / "networks.md").read_text(encoding="utf-8"))
    figure = Figure(figsize=(5 * len(panels), 3.8), dpi=130, layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, table) in zip(row, panels.items(), strict=True):
        axes.set_title(title, fontsize=10)
        iterations = table.pop("k")
        colours: dict[str, str] = {}
        for name, errors in table.items():
            network, _, what = name.partition(",")
            colours.setdefault(network, f"C{len(colours)}")
            style = STYLES.get(what.strip(), {})
            axes.plot(
                iterations,
                errors,
                **{"marker": "o", "markersize": 4, "color": colours[network], **style},
                label=name,
            )
        axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("iteration k")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    row[0].set_ylabel("relative error against sequential")
    figure.savefig(DOCS / "images" / "error_per_iteration.png")


if __name__ == "__main__":
    main()
