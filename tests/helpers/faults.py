"""What can go wrong in a run, when, and how the run must end: the one place that says so.

tests/system/test_fault_matrix.py makes it happen; docs/running.md has a table made of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from itertools import product

WATCHDOG, CALL_LIMIT, LOAD_LIMIT = 2, 3, 4
"""Seconds: limits of the runs."""

MOMENTS = ("loading", "first", "middle", "checkpoint", "stop", "verify")
"""The network is loaded; first network call; one in mid-run; a part of an iteration is written; the
answer is known; the sequential sampler verifies."""

METHODS = {
    "parareal-root": ["--placement", "root", "--slices", 4, "--tolerance", 3],
    "parareal-slice": ["--placement", "slice", "--slices", 4, "--tolerance", 3],
    "window": ["--method", "window", "--window", 4, "--tolerance", 0.01],
    "paradigms": ["--method", "paradigms", "--window", 4, "--tolerance", 0.05],
    "piadm": ["--method", "piadm", "--slices", 4, "--tolerance", 0.01],
    "parataa": ["--method", "parataa", "--window", 4, "--order", 2, "--tolerance", 0.05],
    "chords": ["--method", "chords", "--cores", 4, "--tolerance", 3],
}
"""Names of what is run, and its options."""

FEW = ("parareal-root", "window", "chords")
"""The methods of one process: of a placement nothing is left there, and the rounds are alike."""

NOTHING_LOADED = ("parareal-root", "window")
"""The methods while the network is loaded: none has begun."""

ACROSS = ("parareal-slice", "window", "chords")
"""The methods on several hosts, which take their time."""


@dataclass(frozen=True)
class End:
    """How a run must end.

    Attributes
    ----------
    outcome : str
        In a word.
    seconds : float
        From the fault to the end of the job, at most.
    codes : tuple of int
        Exit codes of the job; a negative one is a signal.
    says : str
        What is said on standard error: a regular expression, with {rank} for the rank of the fault.
    told : str
        The same for users.
    within : str
        The seconds for users, where an option says how many they are.
    """

    outcome: str
    seconds: float
    codes: tuple[int, ...]
    says: str = ""
    told: str = ""
    within: str = ""


ENDED = (1, 9, 137)
"""Of a job that a rank ends: MPI's, or the launcher's."""

WELL = End("goes on", 60, (0,))
"""The run goes on to its end, in the bits of one that was not disturbed."""

DIES = End("dies", 10, (-9,))
KILLED = End("dies", 10, (9, 137), "BAD TERMINATION", "the launcher's words")
SILENT = End(
    "is ended",
    WATCHDOG + 10,
    ENDED,
    r"rank {rank} on \S+ has been silent for \d+ s",
    "rank R on HOST has been silent for T s",
    "`--watchdog` + 10 s",
)
NOT_READY = End(
    "is ended",
    LOAD_LIMIT + 10,
    ENDED,
    rf"rank {{rank}} on \S+ is not ready after {LOAD_LIMIT} s of loading: raise --load-limit",
    "rank R on HOST is not ready after T s of loading",
    "`--load-limit` + 10 s",
)
OVERDUE = End(
    "is ended",
    CALL_LIMIT + 10,
    ENDED,
    rf"rank {{rank}} on \S+: a network call at .*step \d+.* has (taken|kept "
    rf"Python's lock for) more than {CALL_LIMIT} s: raise --call-limit",
    "rank R on HOST: a network call at slice N, iteration K, step I has taken more than T s",
    "`--call-limit` + 10 s",
)
RAISED = End(
    "fails",
    10,
    (1,),
    r"the network failed at .*step \d+:(.|\n)*ValueError: a fault of the test",
    "the network failed at slice N, iteration K, step I, and the traceback",
)
NOT_LOADED = End(
    "is refused",
    10,
    (2,),
    r"factory\(.*failed \(ValueError: a fault of the test\)",
    "the call factory(...) failed",
)
WRONG_NUMBERS = End(
    "fails",
    10,
    (4,),
    r"the network returned NaN or infinity at .*step \d+",
    "the network returned NaN or infinity at slice N, iteration K, step I, sample J",
)
WRONG_SHAPE = End(
    "fails",
    10,
    (4,),
    r"the network returned \(2, 1, 1, 2\) for .*step \d+",
    "the network returned one shape for another at slice N, iteration K, step I",
)
DISK_FULL = End(
    "fails",
    10,
    (1,),
    "could not be written to .*: No space left on device",
    "iteration K of slices N could not be written: No space left on device",
)
NO_ROOM = End(
    "is refused",
    10,
    (2,),
    r"No space left on device|is full|needs .* free",
    "FOLDER can't be written: No space left on device",
)
NO_PICTURES = End(
    "is done",
    10,
    (1,),
    "the run is complete, but its pictures could not be written",
    "the run is complete, but its pictures could not be written",
)
MOVED = End(
    "fails",
    10,
    (1,),
    "could not be written to .*: ",
    "the folder was moved or exchanged, or there is no such file",
)
LOST = End(
    "is ended",
    WATCHDOG + 12,
    (*ENDED, -9, 14, 255),
    r"has been silent for \d+ s",
    SILENT.told,
    "`--watchdog` + 12 s",
)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes
    ----------
    told : str
        What it is, for users.
    do : str
        What they do then.
    ends : dict of str to End or tuple of End
        By moment, transport or both; "" stands for all others. Of several ends each is right.
    without : dict of str to str
        Moments or transports without this fault, and why.
    """

    told: str
    do: str
    ends: dict[str, End | tuple[End, ...]]
    without: dict[str, str] = field(default_factory=dict)

    def at(self, moment: str, transport: str) -> tuple[End, ...]:
        """Return the ways in which a run may end."""
        keys = (f"{moment} {transport}", moment, transport, "")
        found = next(self.ends[key] for key in keys if key in self.ends)
        return found if isinstance(found, tuple) else (found,)


NO_NUMBERS = {"loading": "nothing is computed while the network is loaded"}
IN_THE_CALL = {
    "checkpoint": "the network has no part in it: see middle",
    "stop": "the network has no part in it: see middle and verify",
}
ON_HOSTS = {
    "local": "one process has one host",
    "loading": "the launcher has no way to a host that is gone; it waits, and so does the user",
    "checkpoint": "a file has no part in it: see middle",
    "verify": "the ranks are watched over until its end, see stop",
}

FAULTS = {
    "kill": Fault(
        "a rank is killed (out of memory, by an administrator)",
        "`resume`",
        {"local": DIES, "mpi": KILLED},
    ),
    "stop": Fault(
        "a rank is stopped (SIGSTOP), or its host stands still",
        "`resume`; one process goes on when it is let go on",
        {"local": WELL, "mpi": SILENT, "loading mpi": NOT_READY},
    ),
    "hang": Fault(
        "a network call never returns",
        "`resume`, with a higher `--call-limit` if a call may take so long",
        {"": OVERDUE, "loading": NOT_READY},
        IN_THE_CALL,
    ),
    "spin": Fault(
        "a network call never returns and keeps Python's lock",
        "the same",
        {
            "local": replace(OVERDUE, seconds=CALL_LIMIT + 12, codes=(-9,)),
            "mpi": replace(SILENT, seconds=CALL_LIMIT + 12, says=f"{SILENT.says}|{OVERDUE.says}"),
            "loading local": replace(NOT_READY, codes=(-9,)),
            "loading mpi": NOT_READY,
        },
        IN_THE_CALL,
    ),
    "exit": Fault(
        "a library ends a rank's process",
        "`resume`",
        {"": End("dies", 10, (3,))},
    ),
    "raise": Fault(
        "the network raises an exception",
        "mend it and `resume`",
        {"": RAISED, "loading": NOT_LOADED},
        IN_THE_CALL,
    ),
    "NaN": Fault(
        "the network returns NaN or infinity",
        "mend it and `resume`",
        {"": WRONG_NUMBERS},
        NO_NUMBERS | IN_THE_CALL,
    ),
    "wrong shape": Fault(
        "the network returns the wrong shape",
        "mend it and `resume`",
        {"": WRONG_SHAPE},
        NO_NUMBERS | IN_THE_CALL,
    ),
    "slow rank": Fault(
        "a rank is a hundred times slower than the others",
        "nothing",
        {"": WELL},
        IN_THE_CALL,
    ),
    "full disk": Fault(
        "the disk is full",
        "make room and `resume`",
        {
            "": DISK_FULL,
            "loading": NO_ROOM,
            "stop": (DISK_FULL, NO_PICTURES, WELL),
            "verify": (DISK_FULL, NO_PICTURES, WELL),
        },
    ),
    "folder moved": Fault(
        "the run's folder is moved away or exchanged",
        "bring it back and `resume`",
        {"": MOVED},
        {"loading": "it is not there yet"},
    ),
    "folder removed": Fault(
        "the run's folder is removed",
        "`sample` again",
        {"": MOVED},
        {"loading": "it is not there yet"},
    ),
    "clock set back": Fault("the clock is set back", "nothing", {"": WELL}),
    "lost host": Fault(
        "a host is lost, or cut off for longer than `--watchdog`", "`resume`", {"": LOST}, ON_HOSTS
    ),
    "network cut": Fault(
        "the network is cut for a time shorter than `--watchdog`", "nothing", {"": WELL}, ON_HOSTS
    ),
}


@dataclass(frozen=True)
class Case:
    """One fault at one moment of one run."""

    fault: str
    moment: str
    method: str
    transport: str

    def __str__(self) -> str:
        return "-".join([self.fault.replace(" ", "_"), self.moment, self.method, self.transport])

    @property
    def rank(self) -> int:
        """The rank of the fault: one or the other; rank 0 verifies alone."""
        if self.transport == "local" or self.moment == "verify":
            return 0
        return random.Random(str(self)).randrange(2)

    @property
    def ends(self) -> tuple[End, ...]:
        return FAULTS[self.fault].at(self.moment, self.transport)


def cases(across: bool) -> list[Case]:
    """Return every case on several emulated hosts, or every other one."""
    found = []
    for (name, fault), moment, method, transport in product(
        FAULTS.items(), MOMENTS, METHODS, ("local", "mpi")
    ):
        hosts = "local" in fault.without
        among = ACROSS if hosts else METHODS if transport == "mpi" else FEW
        if moment == "loading":
            among = NOTHING_LOADED
        left_out = {moment, transport} & fault.without.keys()
        if hosts == across and method in among and not left_out:
            found.append(Case(name, moment, method, transport))
    return found


def draw(count: int, seed: int = 0) -> list[Case]:
    """Return some of those on one host: every fault, moment and method; three of five are local."""
    left = cases(across=False)
    random.Random(seed).shuffle(left)
    chosen: list[Case] = []
    for number in range(count):
        transport = "local" if number % 5 < 3 else "mpi"
        pairs = [(one.fault, one.moment) for one in chosen]
        methods = [one.method for one in chosen]
        faults = [one.fault for one in chosen]
        rarest = min(
            (case for case in left if case.transport == transport),
            key=lambda case: (
                pairs.count((case.fault, case.moment)),
                methods.count(case.method),
                faults.count(case.fault),
            ),
        )
        chosen.append(rarest)
        left.remove(rarest)
    return chosen
