"""What ``inspect`` says of runs in every state, and the trace that ``export`` writes."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import pytest

from pint_diffusion.commands.cli import main
from pint_diffusion.errors import Interrupted
from pint_diffusion.output import Ended
from pint_diffusion.report.trace import read_segments
from pint_diffusion.store.manifest import Manifest
from pint_diffusion.store.master import read_run

GIVEN = ["--steps", "12", "--slices", "4", "--samples", "2", "--batching", "off", "--warmup"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, mixture_file):
    """A run of two segments."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    model = ["--model", f"gmm:{mixture_file}"]
    given = [*model, *GIVEN, "--max-iterations", "2", "--tolerance", "1e-9", "--out", str(folder)]
    assert main(["sample", *given]) == 3
    assert main(["resume", str(folder), "--max-iterations", "4"]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def inspect(folder, capsys):
    capsys.readouterr()
    code = main(["inspect", str(folder)])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return code, told.out


def test_a_finished_run(run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    code, said = inspect(run, capsys)
    assert code == 0
    assert "finished" in said
    assert "--steps 12" in said
    assert "--warmup --samples 2 --batching off\n" in said
    assert "--placement" not in said  # the default
    assert "1 on " in said
    assert "goes on after iteration 4" in said
    change = read_run(run).change
    for k in range(1, 5):
        assert f"{change[k - 1].max():.3g} / 255" in said
    assert said.count(" whole") == 5
    assert before == {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}


def test_parts_that_are_missing_or_changed_are_named(run, capsys):
    manifest = Manifest.read(run)
    lost, torn = next(iter(manifest.rows[4])), next(iter(manifest.rows[3]))
    (run / "parts" / str(lost)).unlink()
    path = run / "parts" / str(torn)
    path.write_bytes(path.read_bytes()[:-1])
    code, said = inspect(run, capsys)
    assert code == 1
    assert f"parts/{lost} is missing" in said
    assert f"parts/{torn} is torn or was changed" in said
    assert "1 missing" in said
    assert "1 changed" in said
    assert "goes on after iteration 2" in said


@pytest.mark.parametrize("state", ["running", "interrupted", "failed: rank 1 on h: no"])
def test_a_run_that_did_not_end_well(mixture_file, tmp_path, capsys, monkeypatch, state):
    """Its master file as it is before the first iteration."""
    monkeypatch.setattr("pint_diffusion.run._iterate", lambda *given: stop())
    monkeypatch.setattr("pint_diffusion.run.Ended", lambda *given, **more: Ended(state))
    given = ["--model", f"gmm:{mixture_file}", *GIVEN, "--out", str(tmp_path / "run")]
    assert main(["sample", *given]) == 75
    code, said = inspect(tmp_path / "run", capsys)
    assert code == 0
    assert state in said
    assert ("or killed: last written" in said) == (state == "running")
    assert "none yet" in said
    assert "begins anew" in said


def stop():
    raise Interrupted("enough")


@pytest.mark.parametrize("what", ["nothing", "no folder", "no manifest", "a torn master"])
def test_a_bad_folder_is_one_sentence_and_code_2(run, capsys, what):
    if what == "nothing":
        shutil.rmtree(run)
        run.mkdir()
    elif what == "no folder":
        run = run / "elsewhere"
    elif what == "no manifest":
        (run / "manifest.json").unlink()
    else:
        (run / "run.h5").write_bytes((run / "run.h5").read_bytes()[:-1])
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1


def test_a_trace_has_every_event_of_all_segments(run, tmp_path, capsys):
    path = tmp_path / "trace.json"
    assert main(["export", str(run), "--trace", str(path)]) == 0
    told = json.loads(path.read_text())["traceEvents"]
    boxes = [event for event in told if event["ph"] == "X"]
    segments = read_segments(run, read_run(run).facts["run"])
    assert list(segments) == [0, 1]
    assert len(boxes) == sum(len(rows) for rows in segments.values())
    assert all(box["dur"] >= 0 for box in boxes)
    assert {(box["pid"], box["tid"]) for box in boxes} == {
        (event["pid"], event["tid"]) for event in told if event["name"] == "thread_name"
    }
    expected = [
        kind.decode() + (f" {k}" if k >= 0 else "")
        for rows in segments.values()
        for kind, k in zip(rows["kind"].tolist(), rows["iteration"].tolist(), strict=True)
    ]
    assert [box["name"] for box in boxes] == expected
    first, second = ([b for b in boxes if b["args"]["segment"] == s] for s in (0, 1))
    assert max(b["ts"] + b["dur"] for b in first) < min(b["ts"] for b in second)
    processes = [event["args"]["name"] for event in told if event["name"] == "process_name"]
    assert processes == [f"rank 0 on {read_run(run).facts['hosts'][0]}"]


def test_boxes_of_a_thread_do_not_cross(run, tmp_path):
    path = tmp_path / "trace.json"
    assert main(["export", str(run), "--trace", str(path)]) == 0
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for box in json.loads(path.read_text())["traceEvents"]:
        if box["ph"] == "X":
            span = box["ts"], box["ts"] + box["dur"]
            threads.setdefault((box["pid"], box["tid"]), []).append(span)
    for spans in threads.values():
        spans.sort()
        for (start, stop), (later, _) in pairwise(spans):
            assert later >= stop - 1e-3 or start == later


def test_a_run_without_events_has_no_trace(run, tmp_path, capsys):
    for path in run.glob("events-*"):
        path.unlink()
    assert main(["export", str(run), "--trace", str(tmp_path / "t.json")]) == 2
    assert "left no events" in capsys.readouterr().err
