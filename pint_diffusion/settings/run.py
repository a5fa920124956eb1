"""The settings of a run: one typed tree, from a YAML file, overridden by flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml
from pydantic import Field, PositiveInt, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from pint_diffusion.settings.reading import OWN_FLAGS, FromCommandLine, parse_over_file

SPACING_OPTIONS = (
    *("spacing", "whole_timesteps", "sigma_min", "sigma_max", "rho", "shift", "final"),
)


SpacingName: TypeAlias = Literal[
    "trailing",
    "leading",
    "linspace",
    "dpm_leading",
    "dpm_linspace",
    "karras",
    "exponential",
    "logsnr",
    "beta",
    "ou",
]


class Settings(FromCommandLine):
    """Draw samples from a diffusion model, parallel in time."""

    model_config = SettingsConfigDict(cli_prog_name="pint-diffusion sample")

    model: str | None = Field(
        None,
        description="network: a folder with a diffusers UNet2DModel, gmm:FILE.npz, "
        "module:factory or path/to/file.py:factory; the bundled network if not given",
    )
    labels: tuple[int, ...] | None = Field(
        None,
        description="classes of a class-conditional network, which the samples take in turn; all "
        "classes if not given",
    )
    guidance: float | None = Field(
        None,
        allow_inf_nan=False,
        description="weight of classifier-free guidance: 1 is conditional, more is stronger; none "
        "if not given",
    )
    guidance_rescale: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share in which guided outputs are scaled to the spread of conditional ones",
    )
    null_class: int | None = Field(
        None, ge=0, description="label of no class, for guidance; the network's own if not given"
    )
    steps: PositiveInt = Field(64, le=1_000_000, description="fine steps N from noise to data")
    slices: PositiveInt | None = Field(
        None,
        description="time slices M; the number of ranks if not given, in one process sqrt(N)",
    )
    bounds: tuple[int, ...] | None = Field(
        None, description="slice boundaries as M + 1 step indices, 0,...,N; even if not given"
    )
    slicing: Literal["even", "logsnr", "ou"] = Field(
        "even",
        description="what slices have alike: steps, length in the signal-to-noise ratio, or length "
        "in Ornstein-Uhlenbeck time",
    )
    spacing: SpacingName = Field("trailing", description="where the noise levels of the steps lie")
    whole_timesteps: bool = Field(
        False,
        description="tell the network whole training timesteps only, as DDIM, DDPM and DPM-"
        "Solver of diffusers do",
    )
    sigma_min: float | None = Field(
        None,
        description="last sigma before the end of karras, exponential, logsnr, beta and ou",
    )
    sigma_max: float | None = Field(None, description="first sigma of a spacing in sigma")
    rho: float = Field(7, ge=1, le=1000, description="exponent of karras")
    shift: float = Field(
        1, ge=1e-3, le=1e3, description="shift of a flow-matching network's noise levels"
    )
    final: Literal["clean", "least"] = Field(
        "clean", description="end in clean data, or at the least noisy trained level"
    )
    grid: Path | None = Field(
        None, description="grid file with the noise levels, instead of --steps and --spacing"
    )
    samples: PositiveInt = Field(16, description="samples S drawn at once")
    seed: int = Field(0, ge=0, lt=2**64, description="seed of the noise, with the sample's number")
    method: Literal[
        "parareal", "sequential", "paradigms", "parataa", "piadm", "window", "chords"
    ] = Field("parareal", description="sampling method, see docs/methods.md")
    window: PositiveInt | None = Field(
        None, description="most points evaluated at once; of paradigms, window (32), parataa (100)"
    )
    order: PositiveInt | None = Field(None, le=10_000, description="steps in a map of parataa (20)")
    memory: PositiveInt | None = Field(
        None, le=100, description="rounds in an update of parataa (2)"
    )
    ridge: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="regularization of parataa's updates (1e-3)"
    )
    noise_tolerance: float | None = Field(
        None,
        ge=0,
        le=1e100,
        allow_inf_nan=False,
        description="of parataa, in units of a step's noise",
    )
    warm_start: Path | None = Field(
        None, description="folder of a run on whose trajectory parataa begins"
    )
    schedule: Literal["blocks", "diagonal"] | None = Field(
        None,
        description="when a slice of piadm begins: when the one before has ended (blocks), or a "
        "round later than it (diagonal)",
    )
    freeze: Literal["x0", "eps", "score", "v", "increments"] | None = Field(
        None,
        description="what of the network's answer stays while a sweep of piadm moves a state (x0 "
        "if the solver draws noise, else v)",
    )
    sweeps: PositiveInt | None = Field(
        None, description="sweeps of every slice of piadm, instead of --tolerance"
    )
    cores: PositiveInt | None = Field(
        None, description="walks of chords that begin at different steps (8)"
    )
    starts: tuple[int, ...] | None = Field(
        None, description="the steps at which they begin, 0,...; the published ones if not given"
    )
    solver: str = Field("ddim", description="solver of the fine steps, see docs/solvers.md")
    eta: float | None = Field(
        None, ge=0, le=1, description="share of noise of ddim (0) and euler_ancestral (1)"
    )
    variance: Literal["fixed_small", "fixed_large", "learned_range"] | None = Field(
        None, description="variance of ddpm (fixed_small)"
    )
    lam: float | None = Field(None, ge=-100, le=100, description="parameter of lambda_ddim (0.5)")
    churn: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="noise that heun adds over the walk (0)"
    )
    churn_min: float | None = Field(None, ge=0, description="least sigma with churn (0)")
    churn_max: float | None = Field(None, ge=0, description="greatest sigma with churn (inf)")
    churn_noise: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="standard deviation of churn's noise (1)"
    )
    history: Literal["carry", "restart"] = Field(
        "carry",
        description="what a multistep solver knows at the start of a slice: what it would know in "
        "the sequential walk, or nothing",
    )
    corrector_steps: int = Field(
        0, ge=0, description="Langevin steps at every slice boundary; of a deterministic solver"
    )
    corrector_length: float = Field(
        0.1, gt=0, le=10, description="length of a Langevin step, in units of the noise coefficient"
    )
    corrector_friction: float = Field(
        2.0, ge=1e-3, le=1e3, description="friction of the Langevin steps, in the inverse unit"
    )
    coarse_solver: str | None = Field(
        None,
        description="solver of the coarse steps; the fine one if it draws noise that coarse steps "
        "sum up, or takes one evaluation per step and has no history, else ddim",
    )
    coarse_steps: PositiveInt = Field(1, description="steps of a coarse solve over one slice")
    coarse_noise: Literal["none", "sum"] | None = Field(
        None,
        description="of a stochastic solver's coarse steps: none (they are made by ddim), or the "
        "weighted sum of the noise of the fine steps",
    )
    coarse_model: str | None = Field(
        None, description="network of the coarse steps, as --model; the same one if not given"
    )
    placement: Literal["root", "slice"] = Field(
        "root", description="rank of coarse solves and corrections: rank 0, or the slice's own"
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        le=1e100,  # it is squared
        allow_inf_nan=False,
        description="when a sample has converged, in the method's own measure. Parareal: mean "
        "absolute change of its values in one iteration, in 1/255 of the data range (0.1); others: "
        "see docs/methods.md. With 0 the answer is exact",
    )
    max_iterations: PositiveInt | None = Field(
        None,
        description="most iterations K or rounds; what is always enough, if not given: M, or N "
        "rounds",
    )
    batching: Literal["auto", "off"] | PositiveInt = Field(
        "auto",
        description="evaluations in one network call: all that are ready, one (same bits on any "
        "number of ranks), or at most this many",
    )
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = Field(
        "float32", description="dtype of the network; states are kept in float32 or float64"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where ranks compute")
    threads: PositiveInt | None = Field(
        None,
        description="CPU threads per rank; a share of the host's cores if not given, "
        "1 with --batching off",
    )
    transport: Literal["auto", "local", "mpi"] = Field(
        "auto", description="how values move; mpi if a launcher started this process, else local"
    )
    watchdog: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds of silence after which another rank is taken for lost and the job "
        "ended; at least twice its longest network call",
    )
    warmup: bool = Field(
        False, description="make one network call per rank before the clock starts"
    )
    verify: bool = Field(
        False, description="also run the sequential sampler on rank 0, print error and speed-up"
    )
    stream: bool = Field(
        False, description="also draw the answer of every iteration, as soon as it is there"
    )
    keep: Literal["boundary", "final"] = Field(
        "boundary", description="what the files keep: all boundary states, or the samples"
    )
    checkpoint_every: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds from one iteration that is written to disk to the next, with --keep "
        "final; 0 for every iteration",
    )
    out: Path = Field(Path("pint_run"), description="folder for files and pictures")
    force: bool = Field(False, description="overwrite the run that is in the folder")
    config: Path | None = Field(None, description="YAML file with any of these settings")
    print_config: bool = Field(False, description="print the settings as YAML and end")

    @field_validator("batching", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: Any) -> Any:
        if value is True:
            raise ValueError("'auto', 'off' or a number of evaluations")
        return "off" if value is False else value  # YAML reads a bare off as false

    @model_validator(mode="after")
    def _slices_fit(self) -> Settings:
        if self.bounds is not None and self.slices not in (None, len(self.bounds) - 1):
            raise ValueError(
                f"{len(self.bounds)} bounds make {len(self.bounds) - 1} slices, "
                f"but slices is {self.slices}: give one of the two"
            )
        return self

    @model_validator(mode="after")
    def _churn_rises(self) -> Settings:
        low, high = self.churn_min, self.churn_max
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"--churn-min {low:g} is above --churn-max {high:g}: no noise level lies between "
                "them, so exchange the two"
            )
        return self

    @model_validator(mode="after")
    def _one_end_of_slices(self) -> Settings:
        if self.sweeps is not None and self.tolerance is not None:
            raise ValueError(
                f"--sweeps {self.sweeps} ends every slice whatever moves, and --tolerance "
                f"{self.tolerance:g} when nothing moves by more: give one of the two"
            )
        return self

    @model_validator(mode="after")
    def _kept_is_written(self) -> Settings:
        if self.checkpoint_every and self.keep == "boundary":
            raise ValueError(
                f"--checkpoint-every {self.checkpoint_every:g} leaves iterations out, so it needs "
                "--keep final"
            )
        return self

    @property
    def solver_options(self) -> dict[str, Any]:
        """Options of the solver that the user set."""
        names = ("eta", "variance", "lam", "churn", "churn_min", "churn_max", "churn_noise")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def method_options(self) -> dict[str, Any]:
        """Options of the method that the user set."""
        names = (
            *("window", "order", "memory", "ridge", "noise_tolerance"),
            *("warm_start", "schedule", "freeze", "sweeps", "starts", "cores"),
        )
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return given if self.starts is None else {**given, "cores": self.cores or len(self.starts)}

    @model_validator(mode="after")
    def _one_grid(self) -> Settings:
        if self.bounds is not None and self.slicing != "even":
            raise ValueError(
                f"--bounds say where slices begin, and so does --slicing {self.slicing}: give one "
                "of the two"
            )
        fields = type(self).model_fields
        given = [n for n in SPACING_OPTIONS if getattr(self, n) != fields[n].default]
        if self.grid is not None and given:
            raise ValueError(
                f"--grid {self.grid} says where the levels lie, and so does "
                f"--{given[0].replace('_', '-')}: give one of the two"
            )
        return self

    @property
    def given_slices(self) -> int | None:
        """M as far as the user named it."""
        return self.slices if self.bounds is None else len(self.bounds) - 1

    def to_yaml(self) -> str:
        """Every setting as YAML, to be read back by ``--config``."""
        left_out = {*OWN_FLAGS, *(("steps",) if self.grid else ())}  # the grid file has its own N
        return yaml.safe_dump(self.model_dump(mode="json", exclude=left_out), sort_keys=False)


def parse_run(arguments: Sequence[str]) -> Settings:
    """Read the settings of a run: defaults, then the YAML file, then flags."""
    return parse_over_file(Settings, arguments)
