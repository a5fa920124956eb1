"""Inspection of a run's folder, in any state: its files, and whether they are whole."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pint_diffusion.errors import InputError, StoreError
from pint_diffusion.options import plain
from pint_diffusion.settings.flags import flags_of, place_of
from pint_diffusion.settings.run import Settings
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.facts import read_facts, read_settings
from pint_diffusion.store.manifest import Manifest, parts_of
from pint_diffusion.store.master import open_master, own_dataset
from pint_diffusion.store.names import EVENTS, PARTS
from pint_diffusion.store.part import RUN, PartName, read_own

_WORDS = ("missing", "changed", "another run")
"""Words for what is wrong with a part."""
_SHOWN = 20
"""Most rows of the table; of more iterations it shows the last ones."""


@dataclass(frozen=True)
class Inspection:
    """The state of a run, from its files.

    Attributes
    ----------
    folder : Path
        Folder of the run.
    facts, config : dict
        Attributes of the master file, and the settings in it.
    change : array, shape (K, S)
        Measure of each sample at the iterations in the master file, see `RunRecord`.
    samples : tuple of int or None
        Shape of the answer so far.
    manifest : Manifest
        Complete iterations.
    problems : dict of str to str
        Files of the run that are missing, torn, changed or of another run, and which of the four.
    age : float
        Age of the newest file in seconds.
    """

    folder: Path
    facts: dict[str, Any]
    config: dict[str, Any]
    change: NDArray[np.float64]
    samples: tuple[int, ...] | None
    manifest: Manifest
    problems: dict[str, str]
    age: float

    @property
    def whole(self) -> bool:
        """Whether the parts of all complete iterations are whole, and the event files."""
        return not self.problems


def inspect_run(folder: Path) -> Inspection:
    """Read everything in the folder of a run, and change nothing.

    Raises
    ------
    InputError
        If there is no run, if its master file or manifest can't be read, or if they are of two
        runs.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of a run")
    with open_master(folder) as file:
        facts = read_facts(file)
        config = read_settings(facts)
        change = own_dataset(file, "change")[:]
        samples = own_dataset(file, "samples").shape if "samples" in file else None
    here = Directory.of(folder)
    manifest = _complete(here, facts[RUN])
    while problems := _problems(manifest):
        before, manifest = manifest, _complete(here, facts[RUN])
        if before.rows == manifest.rows:  # else the run goes on, and has deleted old parts
            break
    written = max((path.stat().st_mtime for path in folder.glob("*.[hj]*[5n]")), default=0.0)
    age = max(time.time() - written, 0.0)
    return Inspection(folder, facts, config, change, samples, manifest, problems, age)


def inspection_table(found: Inspection) -> str:
    """Return the inspection as lines of text, without a newline at the end."""
    rows = [*_what_runs(found), *_what_is_there(found), ("resume", _resume_text(found))]
    lines = [f"{name:<15}{text}" for name, text in rows]
    lines += _iterations(found)
    wrong = [f"{name} {what}" for name, what in sorted(found.problems.items())]
    return "\n".join([*lines, *(["", *wrong] if wrong else [])])


def _complete(folder: Directory, run: str) -> Manifest:
    """Read the manifest, and add the iterations that became complete after its last write."""
    manifest = Manifest.read(folder, run)
    manifest.extend()
    return manifest


def _problems(manifest: Manifest) -> dict[str, str]:
    here, problems = manifest.folder, {}
    parts = {part for parts in manifest.rows.values() for part in parts}
    events = sorted(filter(EVENTS.fullmatch, here.names()))
    for name in [*map(_path, sorted(parts)), *events]:
        try:
            read_own(here, name, manifest.run)
        except StoreError as error:
            problems[name] = str(error).removeprefix(f"{here.path / name} ")
    return problems


def _path(part: PartName) -> str:
    return f"{PARTS}/{part}"


def _what_runs(found: Inspection) -> list[tuple[str, str]]:
    facts, config = found.facts, found.config
    status = str(facts["status"]).strip()
    if status == "running":
        status += f", or killed: last written {_ago(found.age)}"
    hosts = Counter(facts["hosts"])
    rows = [
        ("run", str(found.folder)),
        ("status", status),
        ("settings", " ".join(_given(config)) or "all defaults"),
        ("ranks", ", ".join(f"{count} on {host}" for host, count in hosts.items())),
    ]
    if facts["segment"]:
        after = facts["resumed_after"]
        begun = f"after iteration {after}" if after >= 0 else "from the beginning"
        rows.append(("resumed", f"{facts['segment']} x, the last time {begun}"))
    return rows


def _given(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings of a run that differ from the defaults, as flags."""
    choices = Settings.choices.items()
    chosen = {name: known.get(config[name]["name"], known.base) for name, known in choices}
    for flag in sorted(flags_of(Settings, chosen), key=lambda flag: place_of(flag.group)):
        value: Any = config
        for name in flag.path:
            value = value.get(name) if isinstance(value, Mapping) else None
        default = plain(flag.field.get_default(call_default_factory=True))
        if flag.path[-1] == "name":
            default = default["name"]
        if value not in (None, default) and flag.resume != "new":
            yield f"{flag.dashed} {_text(value)}".removesuffix(" True")


def _what_is_there(found: Inspection) -> list[tuple[str, str]]:
    events = Counter(
        int(named[1])
        for path in found.folder.glob("events-*.h5")
        if (named := EVENTS.fullmatch(path.name))
    )
    known = {part for parts in found.manifest.rows.values() for part in parts}
    loose = sum(part not in known for part in parts_of(found.folder))
    starts = ", ".join(f"{count} of start {segment}" for segment, count in sorted(events.items()))
    shape = "none yet" if found.samples is None else f"{found.samples[0]} of {found.samples[1:]}"
    return [
        ("samples", shape),
        ("event files", starts or "none"),
        ("other parts", f"{loose}, of iterations that are not complete" if loose else "none"),
    ]


def _resume_text(found: Inspection) -> str:
    k = found.manifest.newest([])
    if k is None or not found.facts["iterates"]:
        return "begins anew"
    return f"goes on after iteration {k}"


def _iterations(found: Inspection) -> list[str]:
    """Return one line for each iteration in the master file or the manifest."""
    last = max(len(found.change), *found.manifest.rows, -1)
    first = max(0, last + 1 - _SHOWN)
    facts = found.facts
    points = facts["counts"] == "points"
    what, shown = ("round", "least step") if points else ("iteration", "worst change")
    told = f"parts (tolerance {facts['tolerance']:g} {facts['tolerance_unit']})"
    lines = ["", f"{what:<15}{shown:<15}{told}"]
    if first:
        lines.append(f"0 to {first - 1:<10} ...")
    for k in range(first, last + 1):
        worst = ""
        if 0 < k <= len(found.change):
            row = found.change[k - 1]
            worst = f"{row.min():g}" if points else f"{row.max():.3g} {facts['tolerance_unit']}"
        lines.append(f"{k:<15}{worst:<15}{_parts_text(found, k)}".rstrip())
    return lines if last >= 0 else []


def _parts_text(found: Inspection, k: int) -> str:
    if k not in found.manifest.rows:
        return "not complete" if k > max(found.manifest.rows, default=-1) else "not kept"
    parts = found.manifest.rows[k]
    told = [found.problems[_path(part)] for part in parts if _path(part) in found.problems]
    wrong = Counter(next((word for word in _WORDS if word in one), "unreadable") for one in told)
    whole = len(parts) - sum(wrong.values())
    return ", ".join([f"{whole} whole", *(f"{n} {what}" for what, n in sorted(wrong.items()))])


def _ago(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{seconds:.0f} s ago"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("name")
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
