"""The program around its commands: help, versions, debugging, start-up, what it prints."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import warnings

import numpy as np
import pytest
from helpers.checkpoints import save, tiny_network
from helpers.launch import launch

import pint_diffusion
from pint_diffusion.commands.cli import COMMANDS, main
from pint_diffusion.errors import InputWarning
from pint_diffusion.models import load_denoiser
from pint_diffusion.runtime.process import seconds_since_start
from pint_diffusion.runtime.world import open_world
from pint_diffusion.settings.flags import flags_of
from pint_diffusion.settings.help import flags_of_all
from pint_diffusion.settings.run import Settings
from pint_diffusion.store.master import read_run


@pytest.fixture
def run(mixture_file, tmp_path, capfd):
    """A run of the window method, cut short."""
    given = ["--model", f"gmm:{mixture_file}", "--steps", "12", "--samples", "2"]
    out = tmp_path / "run"
    method = ["--method", "window", "--window", "3", "--max-iterations", "2"]
    assert main(["sample", *given, *method, "--out", str(out)]) == 3
    capfd.readouterr()
    return out


def refused(capfd, *arguments):
    """Run a command that refuses its input; return the one line."""
    assert main(list(map(str, arguments))) == 2
    told = capfd.readouterr()
    (line,) = told.err.splitlines()
    assert told.out == ""
    return line.removeprefix("pint-diffusion: error: ")


@pytest.mark.parametrize("before", [[], ["no/such/folder"], ["run"]])
def test_resume_has_a_help_of_its_own(before, capfd):
    assert main(["resume", *before, "--help"]) == 0
    told, err = capfd.readouterr()
    assert err == ""
    assert told.startswith("usage: pint-diffusion resume RUN [options]\n\nGo on with a run")
    everything = [*flags_of(Settings, {}), *flags_of_all(Settings.choices)]
    free = {flag.dashed for flag in everything if flag.resume == "free"}
    listed = set(re.findall(r"^  (--[a-z-]+)", told, re.MULTILINE))
    assert listed == free | {"--help", "--debug"}
    assert {"--tolerance", "--watchdog", "--placement"} <= listed
    assert "--steps" not in told
    for new in ("--out", "--force", "--config"):
        assert new in told.partition("Everything else")[2]


WRONG = {
    ("--tolerance", "abc"): "--tolerance is 'abc', but must be a valid number",
    ("--tolerance", "0.3"): "--tolerance is 0.3, but the run in RUN has 0.001",
    ("--steps", "9"): "--steps is 9, but the run in RUN has 12",
    ("--config", "c.yaml"): "resume goes on in the run's own folder, and takes no --config",
    ("--no-such",): "unrecognized argument: --no-such; see pint-diffusion resume --help",
    ("--order", "2"): "--order is an option of the method parataa, and the method is window",
    ("--window",): "argument --window: expected one argument",
}


@pytest.mark.parametrize("given", WRONG, ids=" ".join)
def test_errors_of_resume_name_what_was_typed(run, capfd, given):
    said = refused(capfd, "resume", run, *given)
    assert said.startswith(WRONG[given].replace("RUN", str(run)))
    assert "--config" not in said or "--config" in given


def test_resume_names_a_run_that_is_missing_as_its_help_does(capfd, tmp_path):
    assert "RUN is missing" in refused(capfd, "resume")
    assert "RUN is missing" in refused(capfd, "resume", "--tolerance", "1")
    assert refused(capfd, "resume", "a\0b").startswith("RUN is 'a\\x00b', which no file")
    assert refused(capfd, "resume", tmp_path).startswith(f"{tmp_path} holds no run")


@pytest.mark.parametrize("command", [*COMMANDS, None])
def test_every_command_has_help_that_names_debug(command, capfd):
    assert main([command, "--help"] if command else ["--help"]) == 0
    told, err = capfd.readouterr()
    assert err == ""
    assert told.startswith(f"usage: pint-diffusion {command or 'COMMAND'} ")
    assert ("--debug" in told) == (command is not None)


def test_version_names_the_program_and_its_libraries_and_loads_none(capfd):
    assert main(["--version"]) == 0
    told = capfd.readouterr().out.splitlines()
    assert told[0] == f"pint-diffusion {pint_diffusion.__version__}"
    assert {line.split()[-2] for line in told} >= {"python", "torch", "numpy", "h5py", "mpi4py"}
    act = "import sys; from pint_diffusion.commands.cli import main; main(['--version']); print(*("
    act += "{'torch', 'h5py', 'mpi4py', 'diffusers'} & set(sys.modules)))"
    ended = launch(program=["-c", act], ranks=2)
    assert ended.out.count("pint-diffusion ") == 1
    assert ended.out.splitlines()[-1].strip() == ""


def test_the_start_up_time_is_in_the_summary_and_in_the_file(mixture_file, tmp_path, capfd):
    before = seconds_since_start()
    given = ["--model", f"gmm:{mixture_file}", "--steps", "6", "--samples", "1", "--slices", "3"]
    assert main(["sample", *given, "--out", str(tmp_path / "run")]) == 0
    took = read_run(tmp_path / "run").facts["start_up_time"]
    assert before - 0.02 <= took <= seconds_since_start()
    assert re.search(r"^start-up +[0-9.]+ m?s before the clock$", capfd.readouterr().out, re.M)


def test_a_process_knows_when_it_began():
    act = (
        "import time; from pint_diffusion.runtime.process import seconds_since_start as s; "
        "a = s(); time.sleep(0.5); print(a, s() - a)"
    )
    begun = time.monotonic()
    first, passed = map(float, launch(program=["-c", act]).out.split())
    assert 0 < first <= time.monotonic() - begun + 0.02
    assert 0.45 < passed < 5


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("command", ["inspect", "export", "grid"])
def test_commands_of_one_process_are_refused_in_several(command, tmp_path, capfd):
    assert main([command, str(tmp_path / "one")]) == 2
    err = capfd.readouterr().err
    told = f"pint-diffusion: error: {command} runs in one process: start it without a launcher\n"
    assert err == (told if open_world("mpi").rank == 0 else "")


@pytest.fixture
def odd_checkpoint(tmp_path):
    """A checkpoint of which diffusers, and this package, have much to say before it is refused."""
    folder = save(tiny_network(), tmp_path / "odd", "flat", clip_sample=True)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    tiny_network().save_pretrained(folder, max_shard_size="40KB")
    sorted(folder.glob("*-of-*.safetensors"))[-1].write_bytes(b"x")
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**text, "no_such_key": 1}))
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_refused_checkpoint_is_one_sentence_and_debug_says_the_rest(
    odd_checkpoint, tmp_path, ranks
):
    given = ["sample", "--model", odd_checkpoint, "--out", tmp_path / "out"]
    ended = launch(*given, ranks=ranks)
    assert ended.code == 2, ended
    (line,) = ended.err.splitlines()
    assert line.startswith(f"pint-diffusion: error: {odd_checkpoint}: the weights can't be loaded")
    assert line.endswith("(--debug says more)")
    if ranks == 1:
        ended = launch(*given, "--debug")
        assert ended.code == 2
        assert "no_such_key" in ended.err
        assert "Traceback (most recent call last)" in ended.err
        assert "safetensors" in ended.err
        assert ended.err.splitlines()[-1].startswith("pint-diffusion: error: ")


def test_debug_shows_what_is_behind_an_error(tmp_path, capfd):
    (tmp_path / "net.py").write_text(
        "def make(device, dtype):\n    raise KeyError('deep inside')\n"
    )
    given = ["sample", "--model", f"{tmp_path}/net.py:make", "--out", str(tmp_path / "out")]
    assert refused(capfd, *given).endswith("(KeyError: 'deep inside') (--debug says more)")
    assert main([*given, "--debug"]) == 2
    err = capfd.readouterr().err
    assert "raise KeyError('deep inside')" in err
    assert not err.rstrip().endswith("(--debug says more)")


def test_the_command_leaves_warnings_logs_and_environment_as_they_were(mixture_file, tmp_path):
    before = dict(os.environ), warnings.filters[:], warnings.showwarning
    levels = [logging.getLogger(name).level for name in ("diffusers", "matplotlib")]
    assert main(["sample", "--model", "nowhere", "--out", str(tmp_path / "out")]) == 2
    assert (dict(os.environ), warnings.filters[:], warnings.showwarning) == before
    assert [logging.getLogger(name).level for name in ("diffusers", "matplotlib")] == levels


def test_a_warning_of_the_library_is_a_line_and_those_of_others_are_silent(tmp_path, capfd):
    arrays = {"means": np.zeros((2, 3)), "variances": [0.1, 0.2], "weights": [0.5, 0.5]}
    np.savez(tmp_path / "m.npz", **arrays, menas=np.zeros(3))
    (tmp_path / "net.py").write_text(
        "import warnings\nfrom pint_diffusion.models.mixture import load_mixture\n"
        "def make(device, dtype):\n    warnings.warn('of somebody else')\n"
        f"    return load_mixture({str(tmp_path / 'm.npz')!r}, device, dtype)\n"
    )
    given = ["--model", f"{tmp_path}/net.py:make", "--steps", "12", "--slices", "3"]
    assert main(["sample", *given, "--samples", "1", "--out", str(tmp_path / "run")]) == 0
    told = [line for line in capfd.readouterr().err.splitlines() if "iteration" not in line]
    assert len(told) == 1, told
    assert re.match("pint-diffusion: warning: .*m.npz: does not use the array menas", told[0])
    with pytest.warns(InputWarning, match="menas"):
        load_denoiser(f"gmm:{tmp_path}/m.npz")
