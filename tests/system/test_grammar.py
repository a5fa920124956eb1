"""Whatever a user types ends in the answer or in one sentence, and touches nothing else.

    make grammar

GRAMMAR is the number of inputs in one process, and under MPI on all ranks together.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers.grammar import Line, lines, make_inputs
from hypothesis import HealthCheck, Phase, given, settings

import pint_diffusion as pd
from pint_diffusion.commands.cli import main
from pint_diffusion.runtime.world import LocalWorld, open_world

COUNT = int(os.environ.get("GRAMMAR", "300"))
ON_RANKS = int(os.environ.get("GRAMMAR_ON_RANKS", "20"))
SECONDS = 120
CODES = {0, 2, 3, 4, 75}
SAID = ("pint-diffusion: warning: ", "pint-diffusion: note: ", "iteration ", "round ")


class Sandbox:
    """A folder with what command lines name, in which they are tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_inputs(folder)
        network = pd.load_denoiser("gmm:inputs/m.npz")
        method, files = pd.Parareal(slices=5, max_iterations=1), pd.Files("inputs/run")
        pd.sample(network, method, steps=6, samples=2, comm=None, outputs=[files])
        self.prepare()

    def prepare(self) -> None:
        """Put a run where `resume` may change it."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        shutil.copytree(self.folder / "inputs" / "run", self.folder / "out" / "old")

    def ready(self, line: Line) -> dict[str, tuple[int, int, int]]:
        """Write what an input reads; return what is there."""
        if line.config is not None:
            text = line.config.encode("utf-8", "surrogatepass")
            (self.folder / "config.yaml").write_bytes(text)
        if line.out == "out/old":
            self.prepare()
        return self.seen()

    def seen(self) -> dict[str, tuple[int, int, int]]:
        """Every file and folder: kind, size and time of change."""
        found = {}
        for top, folders, files in os.walk(self.folder):
            for name in (*folders, *files):
                path = os.path.join(top, name)
                state = os.lstat(path)
                size = 0 if name in folders else state.st_size
                time_ = 0 if name in folders else state.st_mtime_ns
                found[os.path.relpath(path, self.folder)] = (state.st_mode, size, time_)
        return found

    def clean(self, new: set[str]) -> None:
        """Take away what an input left."""
        for path in sorted(new, reverse=True):
            with contextlib.suppress(OSError):
                whole = self.folder / path
                whole.rmdir() if whole.is_dir() else whole.unlink()


def may_write(line: Line, path: str) -> bool:
    """Whether a path is, or lies below, or is on the way to what the command line names."""
    out, path = os.path.normpath(line.out), os.path.normpath(path)
    return out == "." or path == out or path.startswith(f"{out}/") or out.startswith(f"{path}/")


def tell(failures: list[str]) -> str:
    print("\n\n".join(failures))
    return f"{len(failures)} inputs ended otherwise, see above"


def touched(line: Line, before: dict, after: dict) -> list[str]:
    """What an input has made, changed or taken away that was not its own."""
    found = [path for path in after.keys() - before.keys() if not may_write(line, path)]
    for path, state in before.items():
        resumed = line.arguments[0] == "resume" and path.startswith("out/old")
        if after.get(path) != state and not resumed and os.path.normpath(line.out) != path:
            found.append(path)
    return found


def law(line: Line, code: int, out: str, err: str, speaks: bool = True) -> None:
    """What holds of every ending."""
    assert code in CODES, (code, err)
    assert "Traceback" not in out + err
    told = [text for text in err.splitlines() if text.strip()]
    errors = [text for text in told if text.startswith("pint-diffusion: error: ")]
    other = [text for text in told if text not in errors and not text.startswith(SAID)]
    if not speaks:
        assert not told
    elif line.arguments[0] == "compare":
        other = [text for text in other if not text.endswith(" ...")]
    assert not other, other
    failed = code in (2, 4) and not (code == 2 and "\nfail" in "\n" + out)
    assert len(errors) == (failed and speaks), (code, err)


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield Sandbox(tmp_path)
    torch.set_num_threads(threads)


@contextlib.contextmanager
def limited(seconds: int):
    """Raise where something takes too long."""

    def late(*_):
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.timeout(0 if COUNT > 1000 else 900)
def test_every_input_ends_well_or_in_one_sentence(sandbox, capfd, monkeypatch):
    monkeypatch.setattr(LocalWorld, "abort", lambda self, code: None)  # the exception goes up
    codes, slowest, begun = Counter(), (0.0, ""), time.monotonic()
    failures: list[str] = []

    @drawing(COUNT)
    @given(lines())
    def attempt(line):
        nonlocal slowest
        before = sandbox.ready(line)
        capfd.readouterr()
        start, code = time.monotonic(), -1
        try:
            with limited(SECONDS):
                code = main(line.arguments)
            law(line, code, *capfd.readouterr())
        except BaseException as error:
            failures.append(f"{line}\n{''.join(traceback.format_exception(error))}")
        took, after = time.monotonic() - start, sandbox.seen()
        failures.extend(f"{line}\nchanged {path}" for path in touched(line, before, after))
        assert len(failures) < 20, tell(failures)
        codes[line.arguments[0], code] += 1
        slowest = max(slowest, (took, str(line)))
        sandbox.clean(after.keys() - before.keys())

    attempt()
    assert not failures, tell(failures)
    seconds = time.monotonic() - begun
    print(f"{sum(codes.values())} inputs in {seconds:.0f} s; {counted(codes)}; slowest {slowest}")
    assert sum(codes.values()) >= COUNT
    assert {code for _, code in codes} >= {0, 2}


@pytest.mark.mpi(min_size=4)
@pytest.mark.timeout(0 if ON_RANKS > 100 else 600)
def test_every_input_ends_alike_on_all_ranks(tmp_path, monkeypatch, capfd):
    """Rank 0 draws the inputs and looks at the files; all ranks are told the same."""
    world = open_world("mpi")
    folder = Path(world.share(tmp_path))
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    sandbox = Sandbox(folder) if world.rank == 0 else None
    codes = Counter()
    for line in world.share(some(ON_RANKS) if world.rank == 0 else None):
        before = sandbox.ready(line) if sandbox else {}
        world.barrier()
        capfd.readouterr()
        code = main(line.arguments)
        told = capfd.readouterr()
        world.barrier()
        assert len(set(world.gather(code))) == 1, line
        codes[line.arguments[0], code] += 1
        law(line, code, *told, speaks=world.rank == 0)
        if sandbox:
            after = sandbox.seen()
            assert not touched(line, before, after), line
            sandbox.clean(after.keys() - before.keys())
    torch.set_num_threads(threads)
    if sandbox:
        print(f"{ON_RANKS} inputs on {world.size} ranks; {counted(codes)}")
    assert sum(codes.values()) == ON_RANKS


def some(count: int) -> list[Line]:
    """Draw so many inputs."""
    drawn: list[Line] = []

    @drawing(count)
    @given(lines())
    def collect(line):
        drawn.append(line)

    collect()
    return drawn[:count]


def drawing(count: int):
    """How inputs are drawn: always the same few, or every time other ones."""
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=count <= 1000,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


def counted(codes: Counter) -> str:
    return ", ".join(f"{name} {code}: {n}" for (name, code), n in sorted(codes.items()))
