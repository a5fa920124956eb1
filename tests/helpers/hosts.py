"""Emulated hosts on one machine: namespaces, and a switch that takes its time. Needs root.

A host has its own name, network, shared memory and /etc/hosts, and the file system of the machine.
The switch holds every frame until a link of that rate and delay would have delivered it. It is
this file run as a program: not every kernel has netem.

    with Hosts(4, delay=1e-3, rate=1e9) as hosts:
        hosts.start(8, [sys.executable, "-m", "pint_diffusion", ...])   # two ranks on each
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.launch import LAUNCHER_VARIABLES, mpiexec

PROGRAMS = ["ip", "nsenter", "unshare", "mount"]
NETWORK = "10.99.0"
MTU = 9000
LAUNCHER = """\
#!/bin/sh
# HOST COMMAND...: what ssh would do, for mpiexec
while :; do case $1 in -*) shift ;; *) break ;; esac; done
host=$1; shift
exec nsenter -t "$(cat {folder}/$host)" -n -u -i -m -- sh -c "cd '$PWD' && $*"
"""
HOST = """\
hostname {name} && ip link set lo up && mount -t tmpfs tmpfs /dev/shm &&
mount --bind {folder}/hosts /etc/hosts && echo up && exec sleep infinity
"""


class CannotRunError(Exception):
    """Why there can be no emulated hosts here."""


class Hosts:
    """Hosts h1, h2, ... from entering to leaving.

    Parameters
    ----------
    count : int
        How many.
    delay : float
        Seconds of every frame on its way from host to host.
    rate : float
        Bits per second that a host can receive.
    before : sequence of str
        Words put before the command of the switch.

    Raises
    ------
    CannotRunError
        On entering, if this machine can't do that.
    """

    def __init__(self, count: int, delay: float, rate: float, before: Sequence[str] = ()) -> None:
        self.names = [f"h{i}" for i in range(1, count + 1)]
        self._delay = delay
        self._rate = rate
        self._before = before
        self._processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Hosts:
        missing = [name for name in PROGRAMS if not shutil.which(name)]
        if os.geteuid() != 0 or missing or not Path("/dev/net/tun").exists():
            needed = "root, /dev/net/tun, iproute2 and util-linux"
            raise CannotRunError(f"emulated hosts need {needed}; missing: {missing or 'rights'}")
        self._folder = Path(tempfile.mkdtemp(prefix="pint-hosts-"))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        folder = self._folder
        addresses = {name: f"{NETWORK}.{i}" for i, name in enumerate(self.names, 1)}
        known = {"localhost": "127.0.0.1", **addresses}
        (folder / "hosts").write_text("".join(f"{at} {name}\n" for name, at in known.items()))
        (folder / "hostfile").write_text("".join(f"{name}\n" for name in self.names))
        (folder / "launcher").write_text(LAUNCHER.format(folder=folder))
        (folder / "launcher").chmod(0o755)
        for name in self.names:
            act = ["sh", "-c", HOST.format(name=name, folder=folder)]
            own = ["unshare", "--net", "--uts", "--ipc", "--mount", "--propagation", "private"]
            (folder / name).write_text(str(self._daemon(name, [*own, *act]).pid))
        pids = [str(self._processes[name].pid) for name in self.names]
        here = ["env", f"PYTHONPATH={Path(__file__).parents[1]}", sys.executable, "-m", __name__]
        self._daemon("switch", [*self._before, *here, str(self._delay), str(self._rate), *pids])
        for name, address in addresses.items():
            self.on(name, "ip", "link", "set", "eth0", "mtu", str(MTU), "up")
            self.on(name, "ip", "addr", "add", f"{address}/24", "dev", "eth0")

    def _daemon(self, name: str, command: list[str]) -> subprocess.Popen:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes[name] = process
        said = process.stdout.readline()
        if said != "up\n":
            raise CannotRunError(f"{command[0]} failed: {said.strip()}")
        return process

    def on(self, name: str, *command: str) -> None:
        """Run a command in the network of a host."""
        there = ["nsenter", "-t", str(self._processes[name].pid), "-n", "--"]
        subprocess.run([*there, *command], check=True, timeout=30)

    def start(self, ranks: int, command: list[str], **environment: str) -> subprocess.Popen:
        """Start a job from the first host, its ranks in equal numbers on every host."""
        here = ["nsenter", "-t", str(self._processes[self.names[0]].pid), "-n", "-u", "-i", "-m"]
        each = ["-f", f"{self._folder}/hostfile", "-ppn", str(ranks // len(self.names))]
        how = ["-launcher", "ssh", "-launcher-exec", f"{self._folder}/launcher", *each]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
        return subprocess.Popen(
            [*here, f"--wd={os.getcwd()}", "--", mpiexec(), *how, "-n", str(ranks), *command],
            env=clean | {"OMP_NUM_THREADS": "1"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def cut(self, name: str) -> None:
        """Take a host off the network, without a word to anybody."""
        self.on(name, "ip", "link", "set", "eth0", "down")

    def mend(self, name: str) -> None:
        """Take a host on the network again."""
        self.on(name, "ip", "link", "set", "eth0", "up")

    def end(self, name: str) -> None:
        """Kill all that runs on a host."""
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self, *names: str) -> list[int]:
        """Process ids of all that runs on some hosts, by default on all of them."""
        wanted = {self._network(self._processes[name].pid) for name in names or self.names}
        own = {process.pid for process in self._processes.values()}
        found = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
        return [pid for pid in found if pid not in own and self._network(pid) in wanted]

    def _network(self, pid: int) -> str | None:
        try:
            return os.readlink(f"/proc/{pid}/ns/net")
        except OSError:
            return None

    def __exit__(self, *_: object) -> None:
        hosts = [name for name in self.names if name in self._processes]
        for name in hosts:
            self.end(name)
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)


def switch(delay: float, rate: float, networks: list[int]) -> None:
    """Move frames between taps, one in the network of each process."""
    ports = [make_tap(pid) for pid in networks]
    queues: dict[int, deque[tuple[float, bytes]]] = {port: deque() for port in ports}
    free = dict.fromkeys(ports, 0.0)  # when a port has sent what it holds
    home: dict[bytes, int] = {}
    print("up", flush=True)
    while True:
        now = time.monotonic()
        for port, queue in queues.items():
            while queue and queue[0][0] <= now:
                with contextlib.suppress(OSError):  # the link is down: lost
                    os.write(port, queue.popleft()[1])
        due = min((queue[0][0] for queue in queues.values() if queue), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        for port in select.select(ports, [], [], wait)[0]:
            for frame in waiting(port):
                to, home[frame[6:12]] = home.get(frame[:6]), port
                now = time.monotonic()
                for other in ports if to is None else [to]:
                    if other != port:
                        free[other] = max(free[other], now) + 8 * len(frame) / rate
                        queues[other].append((free[other] + delay, frame))


def waiting(port: int) -> Iterator[bytes]:
    """Frames that a host has sent; not so many that others starve."""
    with contextlib.suppress(OSError):  # there is none, or the link is down
        for _ in range(64):
            yield os.read(port, MTU + 64)


def make_tap(pid: int) -> int:
    """Make eth0 in the network of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as network:
        if libc.setns(network.fileno(), 0x40000000):  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")
    port = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    tap, no_information, set_interface = 0x0002, 0x1000, 0x400454CA
    fcntl.ioctl(port, set_interface, struct.pack("16sH22x", b"eth0", tap | no_information))
    return port


if __name__ == "__main__":
    switch(float(sys.argv[1]), float(sys.argv[2]), [int(pid) for pid in sys.argv[3:]])
