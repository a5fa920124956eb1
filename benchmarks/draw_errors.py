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
    "serial": {"marker": "x", "linestyle": ""},
    "median": {"marker": "", "linestyle": "--"},
    "leading": {"marker": "^"},
    "none": {"marker": "s", "linestyle": ":"},
}


def tables(text: str) -> list[dict[str, list[float]]]:
    """Read the tables whose first column is k: heading -> values, nan where a cell is empty."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        if rows[0][0] == "k":
            columns = zip(*([float(cell or nan) for cell in row] for row in rows[2:]), strict=True)
            found.append(dict(zip(rows[0], map(list, columns), strict=True)))
    return found


def main() -> None:
    """Draw one panel per table."""
    panels = tables((DOCS / "networks.md").read_text(encoding="utf-8"))
    figure = Figure(figsize=(5 * len(panels), 3.8), dpi=130, layout="constrained")
    for axes, table in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
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
        axes.set_ylabel("relative error against sequential")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(DOCS / "images" / "error_per_iteration.png")


if __name__ == "__main__":
    main()
