"""A real Slurm on this machine, for the scripts of jobs/: emulated nodes that each have a slurmd.

Nothing is shared with a Slurm that may run here: folder, ports, munge daemon and key are its own.
Needs root and Debian's packages, which are installed where they are missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from helpers.launch import LAUNCHER_VARIABLES

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge", "libpmi2-0"]
PROGRAMS = ["slurmctld", "slurmd", "sbatch", "munged"]
NODES = ("n1", "n2", "n3", "n4")
CPUS = 8

# Two partitions: a job in `spare` begins on n3 and n4, which weigh less, and can lose one of them
# without harm to the jobs in `main`.
CONFIG = """\
ClusterName=pint
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
PropagateResourceLimits=NONE
ReturnToService=2
SlurmdTimeout=10
KillWait=3
NodeName=n[1-2] Port=[{ports[1]},{ports[2]}] Weight=2 {node}
NodeName=n[3-4] Port=[{ports[3]},{ports[4]}] Weight=1 {node}
PartitionName=main Nodes=n[1-2] Default=YES
PartitionName=spare Nodes=n[2-4]
"""


class CannotRunError(Exception):
    """Why there can be no Slurm here."""


def install() -> None:
    """Install what is missing.

    Raises
    ------
    CannotRunError
        If that can't be done.
    """
    if os.geteuid() != 0:
        raise CannotRunError("a Slurm of one's own needs root")
    if all(map(shutil.which, PROGRAMS)):
        return
    if not shutil.which("apt-get"):
        raise CannotRunError(f"there is no {' or '.join(PROGRAMS)}, and no apt-get to install it")
    options = ["-qq", "-o", "DPkg::Lock::Timeout=60"]
    for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        ended = subprocess.run(
            ["apt-get", *options, *words],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if ended.returncode or not all(map(shutil.which, PROGRAMS)):
        raise CannotRunError(f"apt-get could not install Slurm: {ended.stderr.strip()}")


class Cluster:
    """The daemons, from entering to leaving."""

    def __enter__(self) -> Cluster:
        # Not pytest's own folder: its name is long, and munge wants a folder that all may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="pint-slurm-"))
        self.folder.chmod(0o755)
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith((*LAUNCHER_VARIABLES, "SBATCH_"))
        }
        self.environment = clean | {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen] = {}
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        folder = self.folder
        host = socket.gethostname().split(".")[0]
        node = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory=1000 State=UNKNOWN"
        text = CONFIG.format(host=host, folder=folder, node=node, ports=free_ports(1 + len(NODES)))
        (folder / "slurm.conf").write_text(text)
        plugin = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\n"
        (folder / "cgroup.conf").write_text(plugin)
        (folder / "state").mkdir()
        for name in NODES:
            (folder / f"spool-{name}").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        # --force: it runs as root and its folder is in /tmp, of which it would only warn
        munged = ["munged", "-F", "--force", f"--socket={folder}/munge.socket", *files]
        self._daemon("munged", *munged)
        self._until(lambda: (folder / "munge.socket").exists(), "munged made no socket")
        self._daemon("slurmctld", "slurmctld", "-D", "-i")
        for name in NODES:
            self._daemon(name, "slurmd", "-D", "-N", name)
        self._until(
            lambda: (
                self.said("sinfo", "-h", "-N", "-p", "main,spare", "-t", "idle", "-o", "%N")
                >= set(NODES)
            ),
            "not all nodes came up",
        )

    def _daemon(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.out", "wb") as out:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _until(self, what, otherwise: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"{otherwise}\n{self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        """End of what every daemon wrote."""
        files = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"== {file.name}\n{file.read_text()[-3000:]}" for file in files)

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run one of Slurm's commands to its end."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=30
        )

    def said(self, *command: str) -> set[str]:
        """Lines that a command printed; none if it failed."""
        ended = self.run(*command)
        return set(ended.stdout.split()) if ended.returncode == 0 else set()

    def submit(self, *words: object, environment: dict[str, str], cwd: Path) -> subprocess.Popen:
        """Start ``sbatch --wait WORDS``; it ends with the job's exit code."""
        return subprocess.Popen(
            ["sbatch", "--wait", *map(str, words)],
            cwd=cwd,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        words = self.run("scontrol", "show", "job", "-o", number).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def lose(self, name: str) -> None:
        """Let a node vanish: its slurmd, its steps and all their processes, without a word."""
        tasks = processes_of(name, self.folder)
        daemon = self._daemons.pop(name)
        for process in [daemon.pid, *tasks]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        daemon.wait()

    def __exit__(self, *_: object) -> None:
        if "slurmctld" in self._daemons and self.run("scancel", "-u", "root").returncode == 0:
            with contextlib.suppress(AssertionError):
                self._until(lambda: not self.said("squeue", "-h", "-o", "%i"), "", 10)
        for name, daemon in reversed(self._daemons.items()):
            daemon.terminate()
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
            if name in NODES:
                for process in processes_of(name, self.folder):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def processes_of(node: str, folder: Path) -> list[int]:
    """Processes of a node's jobs, and the slurmstepds that watch them."""
    wanted = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={folder}/slurm.conf".encode()}
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                found.add(int(entry.name))
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd":
                    found.add(parent)
    return sorted(found)
