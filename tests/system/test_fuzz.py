"""Changed files are refused in a sentence or read rightly: no traceback, hang, crash, wrong bits.

    FUZZ=100000 python -m pytest -s tests/system/test_fuzz.py

FUZZ is the number of changed files in all. They are read in child processes, so that a crash of a
library is seen and counted.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import warnings
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from pint_diffusion.build.from_settings import plan_of
from pint_diffusion.commands.cli import main
from pint_diffusion.commands.resume import settings_of
from pint_diffusion.errors import InputError, PintError
from pint_diffusion.grid import NoiseSchedule
from pint_diffusion.grid.file import read_grid, write_grid
from pint_diffusion.grid.level import Level
from pint_diffusion.grid.time_grid import TimeGrid
from pint_diffusion.models.mixture import load_mixture
from pint_diffusion.report.inspection import inspect_run, inspection_table
from pint_diffusion.report.trace import read_segments, write_trace
from pint_diffusion.runtime.world import LocalWorld
from pint_diffusion.settings.reading import parse
from pint_diffusion.settings.run import Settings
from pint_diffusion.store.directory import Directory
from pint_diffusion.store.manifest import Manifest
from pint_diffusion.store.master import read_run
from pint_diffusion.store.part import read_part
from pint_diffusion.store.restart import find

FUZZ = int(os.environ.get("FUZZ", "900"))
PER_CHILD = 4000
SECONDS_EACH = 10
WAYS = ("bit", "byte", "character", "character", "copy", "cut", "insert", "zero")
CHARACTERS = b"0123456789.-+eEinfa_:[]{}'\"&*!|>,#% \n"
KINDS = ("master", "part", "events", "manifest", "config", "grid", "mixture")


def mutate(content: bytes, draw: np.random.Generator) -> bytes:
    """Change a file in one to four places, each in one of seven ways."""
    data = bytearray(content)
    for _ in range(int(draw.choice([1, 1, 1, 2, 4]))):
        at, other = (int(one) for one in draw.integers(0, len(data) + 1, 2))
        length = int(2 ** draw.uniform(0, 8))
        match draw.choice(WAYS):
            case "bit":
                data[at : at + 1] = bytes(one ^ 1 << int(draw.integers(8)) for one in data[at:][:1])
            case "byte":
                data[at : at + 1] = draw.bytes(1)
            case "character":
                data[at : at + 1] = bytes([draw.choice(list(CHARACTERS))])
            case "copy":
                data[at : at + int(draw.integers(2)) * length] = data[other : other + length]
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = draw.bytes(length)
            case "zero":
                data[at : at + length] = bytes(len(data[at : at + length]))
    return bytes(data)


class Original:
    """A run and other inputs as they are, and what reading them gives."""

    def __init__(self, folder: Path) -> None:
        draw = np.random.default_rng(0)
        self.mixture = folder / "mixture.npz"
        np.savez(
            self.mixture,
            means=draw.uniform(-1, 1, (3, 1, 3, 2)),
            variances=draw.uniform(0.01, 0.2, 3),
            weights=np.array([0.25, 0.25, 0.5]),
        )
        self.run = folder / "run"
        given = ["--model", f"gmm:{self.mixture}", "--batching", "off", "--steps", "12"]
        given += ["--slices", "4", "--samples", "2", "--tolerance", "1e-6", "--out", str(self.run)]
        assert main(["sample", *given]) == 0
        self.record = read_run(self.run)
        self.settings = settings_of(self.run, ())
        self.manifest_read = Manifest.read(self.run)
        self.table = untimed(inspection_table(inspect_run(self.run)))
        self.master, self.manifest = self.run / "run.h5", self.run / "manifest.json"
        self.part = sorted((self.run / "parts").glob("00-*.h5"))[-1]
        self.events = self.run / "events-00-0000.h5"
        self.name, self.row = next(
            (name, k)
            for k, parts in self.manifest_read.rows.items()
            for name in parts
            if str(name) == self.part.name
        )
        here = Directory.of(self.run)
        self.states = read_part(here, self.name, self.manifest_read.run)
        self.config, self.grid = folder / "config.yaml", folder / "grid.yaml"
        self.config.write_text(
            Settings.from_flat(steps=9, bounds=(0, 4, 9), model="gmm:m.npz").to_yaml()
        )
        self.schedule = NoiseSchedule.ddpm_linear()
        t = np.linspace(999, 0, 12)
        levels = [
            Level(float(one), float(bar))
            for one, bar in zip(t, self.schedule.alpha_bar(t), strict=True)
        ]
        write_grid(self.grid, levels, (0, 4, 11), ["a grid"])
        self.means = self.load()._means

    def load(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_mixture(self.mixture, torch.device("cpu"), torch.float64)


def untimed(table: str) -> str:
    return "\n".join(line for line in table.splitlines() if "last written" not in line)


def same_run(record, original) -> None:
    for name in ("samples", "boundary", "change", "stopped_at", "alpha_bar", "bounds", "events"):
        assert np.array_equal(getattr(record, name), getattr(original, name)), name
    assert record.config == original.config
    assert record.facts == original.facts


def probe_master(o: Original, everything: bool) -> None:
    try:
        same_run(read_run(o.run), o.record)
    finally:
        if everything:
            told(lambda: equal(settings_of(o.run, ()), o.settings))
            told(lambda: equal(untimed(inspection_table(inspect_run(o.run))), o.table))
            told(lambda: write_trace(o.run, o.run.parent / "trace.json"))
            assert main(["export", str(o.run)]) in (0, 2)


def probe_part(o: Original, everything: bool) -> None:
    kept = o.manifest_read
    try:
        states = kept.states(o.row, range(5))
        assert all(np.array_equal(states[n], state) for n, state in o.states.items())
        same_run(read_run(o.run), o.record)
        whole = True
    except PintError:
        whole = False
        raise
    finally:
        # resume goes on from here: the part is of the newest iteration
        assert kept.newest([]) == (o.row if whole else max(kept.rows.keys() - {o.row}))
        if everything:
            assert inspect_run(o.run).whole == whole


def probe_manifest(o: Original, everything: bool) -> None:
    try:
        equal(Manifest.read(o.run), o.manifest_read)
    finally:
        if everything:
            told(lambda: equal(untimed(inspection_table(inspect_run(o.run))), o.table))


def probe_config(o: Original) -> None:
    settings = parse(Settings, ["--config", str(o.config)])
    assert isinstance(settings, Settings)
    told = settings.to_yaml()
    assert Settings(**yaml.safe_load(told)).to_yaml() == told


def probe_grid(o: Original) -> None:
    levels, bounds = read_grid(o.grid, o.schedule)
    TimeGrid(levels, bounds or (0, len(levels) - 1))
    assert np.isfinite([level.t for level in levels]).all()


def probe_mixture(o: Original) -> None:
    assert torch.equal(o.load()._means, o.means)


def equal(a, b) -> None:
    assert a == b


def told(read) -> None:
    """Read something that may be refused."""
    try:
        read()
    except PintError as error:
        one_sentence(error)


def one_sentence(error: PintError) -> None:
    assert str(error)
    assert "Traceback" not in str(error)


def trial(o: Original, kind: str, number: int) -> str:
    """Read one changed file; say how that ended."""
    path: Path = getattr(o, kind)
    content = path.read_bytes()
    changed = mutate(content, np.random.default_rng([KINDS.index(kind), number]))
    path.write_bytes(changed)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_EACH)
    try:
        probe = globals()[f"probe_{kind}"]
        probe(o, number % 8 == 0) if kind in ("master", "part", "manifest") else probe(o)
        return "read"
    except PintError as error:
        one_sentence(error)
        return "refused"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        path.write_bytes(content)


def probe_events(o: Original) -> None:
    same_run(read_run(o.run), o.record)


def late(number, frame) -> None:
    raise TimeoutError(f"took longer than {SECONDS_EACH} s")


def trials(o: Original, kind: str, numbers: range, at, out) -> None:
    """In a child process: count the ends, and keep what must not have happened."""
    signal.signal(signal.SIGALRM, late)
    ends: Counter[str] = Counter()
    wrong = []
    for number in numbers:
        at.value = number
        try:
            ends[trial(o, kind, number)] += 1
        except Exception as error:
            ends["wrong"] += 1
            wrong.append(f"{kind} {number}: {type(error).__name__}: {error}")
    out.send((ends, wrong[:20]))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return Original(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.timeout(max(120, FUZZ // 10))
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_refused_or_read_rightly(original, kind, capsys):
    fork = multiprocessing.get_context("fork")
    ends: Counter[str] = Counter()
    wrong = []
    share = -(-FUZZ // len(KINDS))
    for first in range(0, share, PER_CHILD):
        numbers = range(first, min(first + PER_CHILD, share))
        at, (into, out) = fork.Value("i", -1), fork.Pipe(duplex=False)
        child = fork.Process(target=trials, args=(original, kind, numbers, at, out))
        content = getattr(original, kind).read_bytes()
        child.start()
        out.close()
        try:
            counted, found = into.recv()
            ends, wrong = ends + counted, wrong + found
        except EOFError:  # it crashed
            wrong.append(f"{kind} {at.value}: the process was ended")
        child.join()
        getattr(original, kind).write_bytes(content)
    with capsys.disabled():
        print(f"\n{kind}: {sum(ends.values())} changed files, {dict(ends)}")
    assert wrong == []
    assert sum(ends.values()) == share


@pytest.mark.parametrize("number", range(8))
def test_a_run_with_a_changed_part_goes_on_from_an_earlier_iteration(original, tmp_path, number):
    folder = tmp_path / "run"
    shutil.copytree(original.run, folder)
    rows = original.manifest_read.rows
    draw = np.random.default_rng(number)
    parts = [part for k in rows for part in rows[k]]
    name = parts[int(draw.integers(len(parts)))]
    path = folder / "parts" / str(name)
    before = path.read_bytes()
    path.write_bytes(mutate(before, draw))
    plan = plan_of(original.settings, LocalWorld())
    here = Directory.of(folder)
    found = find(here, plan, original.record.facts["fingerprint"])
    spared = path.exists() and path.read_bytes() == before
    assert found.k == (max(rows) if spared else max(rows.keys() - {name.k}))
    with pytest.raises(InputError, match="is not the one of the run"):
        find(here, plan, "another")


def seal(path: Path) -> None:
    """Make a changed master look whole."""
    content = path.read_bytes()
    path.write_bytes(content + hashlib.sha256(content).digest())


def external_samples(file):
    del file["samples"]
    file["samples"] = h5py.ExternalLink("/etc/other.h5", "x")


def raw_samples(file):
    del file["samples"]
    file.create_dataset("samples", (2,), "f8", external=[("/etc/passwd", 0, 16)])


def foreign_boundary(name):
    def change(file):
        del file["boundary"]
        layout = h5py.VirtualLayout((2,), "f8")
        layout[:] = h5py.VirtualSource(name, "states", shape=(2,))
        file.create_virtual_dataset("boundary", layout)

    return change


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


CRAFTED = {
    "a link to another file": external_samples,
    "values in another file": raw_samples,
    "a view of a file above the folder": foreign_boundary("../other.h5"),
    "a view of a file by its path": foreign_boundary("/etc/other.h5"),
    "a view of a part elsewhere": foreign_boundary("../parts/00-0001-0001-a-" + "0" * 16 + ".h5"),
    "code in the settings": attribute("config", "!!python/object/apply:os.system [touch crafted]"),
    "settings that are a list": attribute("config", "[1, 2]"),
    "unknown settings": attribute("config", "_cli_parse_args: [--help]"),
    "wrong settings": attribute("config", "steps: -1"),
    "settings that are a number": attribute("config", 3),
    "a status that is an array": attribute("status", np.zeros(3)),
    "hosts that are numbers": attribute("hosts", [1, 2]),
    "ranks that are text": attribute("ranks", "many"),
    "another format": attribute("format", 1),
    "samples that are text": lambda file: (
        file.__delitem__("samples"), file.__setitem__("samples", [b"text"])
    ),
    "samples that are a group": lambda file: (
        file.__delitem__("samples"), file.create_group("samples")
    ),
    "no levels": lambda file: file.__delitem__("grid"),
}  # fmt: skip


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_master_is_refused(original, tmp_path, monkeypatch, case):
    folder = tmp_path / "run"
    shutil.copytree(original.run, folder)
    monkeypatch.chdir(tmp_path)
    with h5py.File(folder / "run.h5", "r+") as file:
        CRAFTED[case](file)
    with pytest.raises(InputError, match="changed"):
        read_run(folder)
    seal(folder / "run.h5")
    with pytest.raises(InputError, match="can't be read"):
        read_run(folder)
    assert not (tmp_path / "crafted").exists()


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "../00-0001-0000-a-0123456789abcdef.h5", "x.h5", ""]
)
def test_a_manifest_does_not_lead_out_of_the_folder(tmp_path, name):
    told = {"run": "one", "rows": {"0": {name: [0]}}, "changes": [], "writing": None}
    told["sha256"] = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="is not the name of a part"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100000, '{"rows": {"0": {}}, "changes": [[1e999]]}', "3"])
def test_a_manifest_of_rubbish_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="can't be read"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["steps: 0x_", "seed: 2001-99-99", "- " * 5000 + "1", "steps: \0"])
def test_a_config_of_rubbish_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError):
        parse(Settings, ["--config", str(tmp_path / "c.yaml")])


def test_events_of_rubbish_are_refused(original, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(original.run, folder)
    path = folder / "events-00-0000.h5"
    path.write_bytes(b"no events")
    with pytest.raises(InputError, match="is torn"):
        read_segments(folder, original.record.facts["run"])
