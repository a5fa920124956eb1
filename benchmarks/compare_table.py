"""The tables of docs/compare.md, from the folders that ``pint-diffusion compare`` wrote.

    python benchmarks/compare_table.py FOLDER [FOLDER ...]

One column for each folder, which are of different N. In a cell of the first table: evaluations one
after another, evaluations in all, relative L2 error, all by the methods' own rules. The second has
the first two at equal error, the third the seconds on P devices by the cost of calls.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

OWN, EQUAL = "own", "equal error"


def main(folders: list[str]) -> None:
    """Print the tables in Markdown."""
    told = [json.loads((Path(folder) / "compare.json").read_text()) for folder in folders]
    rows = [{(row["method"], row["rule"]): row for row in one["rows"]} for one in told]
    steps = [one["steps"] for one in told]
    names = list(dict.fromkeys(row["method"] for one in told for row in one["rows"]))
    families = [name.split(",")[0] for name in names]
    names.sort(key=lambda name: (families.index(name.split(",")[0]), number(name)))

    def counts(row):
        if row.get("deep") is None:
            return "not reached"
        return f"{row['deep']} / {row['evaluations']}"

    def own(row):
        missed = "" if row["converged"] else ", not met"
        return f"{counts(row)}, {row['error']:.0e}{missed}"

    def seconds(row):
        devices = [p for p in ("4", "8", "32", "100") if f"seconds_on_{p}" in row]
        return " ".join(f"{row[f'seconds_on_{p}']:.3g}" for p in devices) or "-"

    for rule, cell in ((OWN, own), (EQUAL, counts), (EQUAL, seconds)):
        head = [f"N = {count}" for count in steps]
        print(f"\n{rule}, {cell.__name__}\n")
        print("| | " + " | ".join(head) + " |\n" + "|---" * (1 + len(head)) + "|")
        for name in names:
            found = [one.get((name, rule)) for one in rows]
            if any(found):
                cells = [cell(row) if row else "" for row in found]
                print(f"| {name} | " + " | ".join(cells) + " |")


def number(name):
    """Return the number in a name, to sort by."""
    return int("".join(filter(str.isdigit, name)) or 0)


if __name__ == "__main__":
    main(sys.argv[1:])
