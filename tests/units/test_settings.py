"""Settings: nested in YAML and Python, flat on the command line, said once at the fields."""

from __future__ import annotations

import logging
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml

from pint_diffusion.commands.cli import main
from pint_diffusion.errors import InputError
from pint_diffusion.methods import METHODS, Chords, Method, Parareal, Window
from pint_diffusion.options import plain
from pint_diffusion.settings import flags
from pint_diffusion.settings.check import Check
from pint_diffusion.settings.compare import Compare
from pint_diffusion.settings.grid import GridSettings
from pint_diffusion.settings.reading import help_of, parse
from pint_diffusion.settings.run import Settings
from pint_diffusion.solvers import DDIM, SOLVERS, DPMpp2M, Heun

MINE = '''
from typing import ClassVar
from pydantic import Field
from pint_diffusion.methods import Window
from pint_diffusion.solvers import DDIM

class Half(DDIM):
    """DDIM with its noise halved."""
    name: ClassVar[str] = "half"
    share: float = Field(0.5, ge=0, le=1, description="of the noise")

class Narrow(Window):
    """A window that is narrow."""
    name: ClassVar[str] = "narrow"
'''


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


@pytest.mark.parametrize(("method", "solver"), product(METHODS, SOLVERS))
def test_no_two_flags_collide(method, solver):
    known = flags.flags_of(Settings, {"method": METHODS[method], "solver": SOLVERS[solver]})
    names = [flag.name for flag in known]
    names += [f"no_{flag.name}" for flag in known if flag.is_switch] + ["help", "help_all"]
    assert len(names) == len(set(names))
    assert all(flag.field.description for flag in known)
    assert all(flags.place_of(flag.group) >= 0 for flag in known)


@pytest.mark.parametrize("kind", [Compare, GridSettings, Check])
def test_other_commands_have_no_two_flags_of_a_name_either(kind):
    names = [flag.name for flag in flags.flags_of(kind, kind.chosen({}, {}))]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_defaults_are_written_and_read_back(method, solver):
    settings = Settings(method=method, solver=solver)
    again = Settings(**yaml.safe_load(settings.to_yaml()))
    assert again == settings
    assert again.to_yaml() == settings.to_yaml()
    assert (type(again.method), type(again.solver)) == (METHODS[method], SOLVERS[solver])


@pytest.mark.parametrize(
    "flat",
    [
        {"method": "window", "window": 8, "solver": "heun", "churn": 8.0},
        {"method": "piadm", "sweeps": 2, "slices": 3, "corrector_steps": 3},
        {"method": "chords", "starts": (0, 4, 9)},
        {"bounds": (0, 3, 64), "coarse_steps": 2, "coarse_solver": "heun", "watchdog": "off"},
        {"solver": "dpmpp_2m", "carry": False, "labels": (0, 1), "batching": 4},
        {"method": "parataa", "warm_start": "walk", "noise_tolerance": 0.1},
    ],
    ids=str,
)
def test_flags_yaml_and_objects_say_the_same(flat, tmp_path):
    by_name = Settings.from_flat(**flat)
    words = []
    for name, value in flat.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        dashed = name.replace("_", "-")
        words += [f"--no-{dashed}"] if value is False else [f"--{dashed}", str(text)]
    assert parse(Settings, words) == by_name
    (tmp_path / "c.yaml").write_text(by_name.to_yaml())
    assert parse(Settings, ["--config", str(tmp_path / "c.yaml")]).told() == by_name.told()


def test_objects_names_and_mappings_make_the_same_settings():
    told = {"method": {"name": "window", "window": 8}, "solver": "dpmpp_2m"}
    assert Settings(**told) == Settings(method=Window(8), solver=DPMpp2M())
    coarse = Settings(coarse={"solver": {"name": "heun", "churn": 1}}).coarse
    assert coarse.solver == Heun(churn=1)


def test_a_flag_goes_over_the_file_and_another_method_drops_its_options(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("method: {name: window, window: 8}\nsolver: heun\nsamples: 3\n")
    over = ["--config", str(file)]
    assert parse(Settings, [*over, "--tolerance", "0.5"]).method == Window(8, tolerance=0.5)
    assert parse(Settings, [*over, "--method", "window"]).method == Window(8)
    assert parse(Settings, [*over, "--method", "chords", "--cores", "2"]).method == Chords(2)
    assert parse(Settings, [*over, "--churn", "2"]).solver == Heun(churn=2)
    with pytest.raises(InputError, match="`order` is an option of the method parataa, and"):
        parse(Settings, [*over, "--order", "2"])


def test_what_is_wrong_in_the_file_is_said_of_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("samples: 3\nmethod: {name: window, window: 0}\n")
    with pytest.raises(InputError, match=r"`config` .*c.yaml, line 2: `window` is 0") as error:
        parse(Settings, ["--config", str(file)])
    assert error.value.field == "config"
    with pytest.raises(InputError, match=r"^`samples` is 0"):
        parse(Settings, ["--config", str(file), "--samples", "0", "--window", "3"])


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        (["--steps", "12"], "steps", 12),
        (["--guidance=1e1"], "guidance", 10.0),
        (["--labels", "0,2"], "labels", (0, 2)),
        (["--batching", "off"], "batching", "off"),
        (["--batching", "4"], "batching", 4),
        (["--watchdog", "off"], "watchdog", None),
        (["--model", "12"], "model", "12"),
        (["--out", "007"], "out", Path("007")),
        (["--sigma-max", "inf"], "sigma_max", float("inf")),
    ],
)
def test_the_text_behind_a_flag_becomes_what_its_type_is(words, option, value):
    found = getattr(parse(Settings, words), option)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("word", ["12.0", "1e1", "yes", "", "0x10", "\u00b2", "9" * 5000])
def test_the_text_behind_a_flag_is_no_other_number(word):
    with pytest.raises(InputError, match=r"^`steps` is "):
        parse(Settings, ["--steps", word])


def test_an_error_of_a_flag_is_not_said_of_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("coarse: {steps: 2}\nsamples: 3\n")
    with pytest.raises(InputError, match=r"^unrecognized argument: --foo"):
        parse(Settings, ["--config", str(file), "--foo", "1"])
    with pytest.raises(InputError, match=r"^`steps` is 0"):
        parse(Settings, ["--config", str(file), "--steps", "0"])


def foreign():
    """Options of methods and solvers, each with a class that has it and one that has not."""
    for choice, registry in Settings.choices.items():
        for owner, other in product(registry, registry):
            for option in registry[owner].stated():
                if option not in registry[other].stated():
                    yield option, choice, owner, other


def test_an_option_of_another_method_or_solver_is_refused_by_name():
    seen = 0
    for option, choice, owner, other in foreign():
        dashed = "--" + option.replace("_", "-")
        with pytest.raises(InputError) as error:
            parse(Settings, [f"--{choice}", other, f"{dashed}=1"])
        said = str(error.value)
        assert error.value.field == option
        assert owner in said.partition(", and the ")[0]
        assert f"and the {choice} is {other}, which has: " in said
        assert all(f"`{own}`" in said for own in Settings.choices[choice][other].stated())
        seen += 1
    assert seen > 200


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"samples": 0}, "samples"),
        ({"samples": "many"}, "samples"),
        ({"stpes": 3}, "stpes"),
        ({"method": {"name": "window", "window": 0}}, "window"),
        ({"method": {"name": "window", "order": 1}}, "order"),
        ({"method": {"window": 3}}, "method"),
        ({"method": 3}, "method"),
        ({"solver": {"name": "heun", "churn_min": 9, "churn_max": 1}}, "churn_min"),
        ({"coarse": {"steps": 0}}, "coarse_steps"),
        ({"coarse": {"solver": {"name": "heun", "churn": -1}}}, "churn"),
        ({"corrector": {"length": 0}}, "corrector_length"),
        ({"method": "window", "coarse": {"steps": 2}}, "coarse_steps"),
        ({"checkpoint_every": 3}, "checkpoint_every"),
        ({"grid": "g.yaml", "spacing": "ou"}, "grid"),
        ({"solver": "dpm++"}, None),
    ],
    ids=str,
)
def test_wrong_settings_are_an_input_error_that_names_the_field(given, field):
    with pytest.raises(InputError) as error:
        Settings(**given)
    assert error.value.field == field
    assert "\n" not in str(error.value)
    assert "--" not in str(error.value)


def test_what_resume_may_change_is_what_the_fields_say():
    free = {
        *("device", "batching", "threads", "transport", "watchdog", "warmup", "verify", "stream"),
        *("trust_rows", "checkpoint_every", "print_config", "call_limit", "load_limit"),
    }
    chosen = {"method": Parareal, "solver": DDIM}
    known = flags.flags_of(Settings, chosen)
    wanted = free | {"placement", "tolerance", "max_iterations"}
    assert {flag.name for flag in known if flag.resume == "free"} == wanted
    assert {flag.name for flag in known if flag.resume == "new"} == {"out", "force", "config"}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_run_in_rounds_keeps_its_tolerance(method):
    """Points that have settled stay where they are."""
    resume = {flag.name: flag.resume for flag in flags.own_flags("method", method)}
    assert resume["tolerance"] == ("free" if method.counts == "changes" else "same")
    assert resume["max_iterations"] == "free"


def test_classes_of_a_third_party_are_named_by_module_or_file(mine, monkeypatch, tmp_path):
    given = ["--solver", f"{mine}:Half", "--share", "0.25", "--method", f"{mine}:Narrow"]
    settings = parse(Settings, [*given, "--window", "3"])
    assert (settings.solver.name, settings.solver.share) == ("half", 0.25)
    assert settings.method.window == 3
    (tmp_path / "again.yaml").write_text(settings.to_yaml())
    again = parse(Settings, ["--config", str(tmp_path / "again.yaml")])
    assert (again.method, again.solver) == (settings.method, settings.solver)
    assert "--share X" in help_of(Settings, given)
    monkeypatch.syspath_prepend(str(mine.parent))
    assert Settings(solver="mine:Half").solver.name == "half"
    assert Settings(coarse={"solver": f"{mine}:Half"}).coarse.solver.share == 0.5
    direct = type("Direct", (DDIM,), {"__module__": "somewhere"})
    assert plain(Settings(solver=direct()))["solver"]["name"] == "somewhere:Direct"


def test_a_run_with_classes_of_a_third_party_is_resumed_and_looking_at_it_runs_no_code(
    mine, mixture_file, tmp_path, capfd
):
    out = tmp_path / "run"
    given = ["--model", f"gmm:{mixture_file}", "--steps", "12", "--samples", "2"]
    given += ["--solver", f"{mine}:Half", "--method", f"{mine}:Narrow", "--window", "3"]
    assert main(["sample", *given, "--max-iterations", "2", "--out", str(out)]) == 3
    look = [sys.executable, "-m", "pint_diffusion", "inspect", str(out)]
    hidden = mine.rename(tmp_path / "hidden.py")
    ended = subprocess.run(look, capture_output=True, text=True, timeout=60, check=True)
    assert f"--method {mine}:Narrow" in ended.stdout
    assert f"--solver {mine}:Half" in ended.stdout
    hidden.rename(mine)
    assert main(["resume", str(out), "--max-iterations", "12"]) == 0
    assert "--window is 4, but the run" in refused(capfd, ["resume", str(out), "--window", "4"])


def refused(capfd, arguments):
    capfd.readouterr()
    assert main(arguments) == 2
    return capfd.readouterr().err


def test_help_lists_the_flags_of_the_choice_and_help_all_those_of_all():
    chosen = help_of(Settings, ["--method", "window", "--solver", "heun", "--help"])
    for flag in ("--window N", "--churn X", "--coarse-steps N", "--watchdog X", "--help-all"):
        assert flag in chosen
    for flag in ("--order", "--eta", "--placement", "--[no-]carry"):
        assert flag not in chosen
    assert "solver heun:" in chosen
    everything = help_of(Settings, ["--help-all"])
    for choice, registry in Settings.choices.items():
        for name, kind in registry.items():
            for flag in flags.own_flags(choice, kind):
                assert flag.dashed[2:] in everything, (name, flag)
    assert max(map(len, everything.splitlines())) <= 100


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"], ["smaple"], ["inspect"]])
def test_what_names_no_method_loads_no_torch(arguments):
    probe = (
        "import sys; from pint_diffusion.commands.cli import main; "
        f"main({arguments}); print(*({{'mpi4py', 'h5py', 'torch'}} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.splitlines()[-1:] in ([""], [])


def test_the_command_prints_what_the_library_logs_and_takes_its_handler_away(
    mixture_file, tmp_path, capfd, caplog
):
    """A run that can gain nothing is warned of; the log has the rank, the line has flags."""
    logger = logging.getLogger("pint_diffusion")
    before = logger.handlers[:], logger.level, logger.propagate
    given = ["--model", f"gmm:{mixture_file}", "--steps", "4", "--slices", "4", "--samples", "1"]
    logger.addHandler(caplog.handler)
    try:
        assert main(["sample", *given, "--out", str(tmp_path / "run")]) == 0
    finally:
        logger.removeHandler(caplog.handler)
    assert "pint-diffusion: warning: 4 iterations of parareal" in capfd.readouterr().err
    (record,) = caplog.records
    assert (record.rank, record.levelname) == (0, "WARNING")
    assert record.name == "pint_diffusion.build.plan"
    assert (logger.handlers, logger.level, logger.propagate) == before


def test_options_in_a_sentence_become_flags():
    assert (
        flags.with_flags("`noise_tolerance` and `x0` of `A`") == "--noise-tolerance and --x0 of `A`"
    )


@pytest.mark.parametrize(
    ("steps", "ranks"), [(64, 1), (64, 4), (100, 8), (16, 4), (1000, 8), (8, 8), (3, 8)]
)
def test_slices_by_default_are_the_multiple_of_the_ranks_with_the_shortest_chain(steps, ranks):
    slices = Parareal().default_slices(steps, ranks)
    assert slices % ranks == 0
    multiples = [m for m in range(ranks, steps + 1, ranks)] or [ranks]
    assert slices == min(multiples, key=lambda m: 4 * steps / m + m - 4)


def test_every_registered_class_has_its_own_name():
    for registry in (METHODS, SOLVERS):
        assert all(kind.name == name for name, kind in registry.items())
        assert all(registry.name_of(kind) == name for name, kind in registry.items())
    assert issubclass(METHODS["window"], Method)
