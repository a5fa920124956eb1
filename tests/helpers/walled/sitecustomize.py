"""Walls of a process: Python imports this first if its folder is on the path.

The network beyond this host is cut off: whoever wants it gets an error. At the end the process
writes into a file in WALLED which files and folders it has made, changed or deleted.
"""

import atexit
import os
import sys
import tempfile

HERE = ("localhost", "::1", "")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
touched = set()


def is_here(host):
    host = host.decode() if isinstance(host, bytes) else str(host or "")
    return host in HERE or host.startswith("127.") or host == os.uname().nodename


def note(path):
    if isinstance(path, (str, bytes)):
        path = os.fsdecode(path)
        if (
            os.path.isabs(path) or os.sep in path
        ):  # a bare name is relative to a folder that is held
            touched.add(os.path.abspath(path))


def watch(event, given):
    if event == "open":
        path, _, flags = given
        if flags & WRITES:
            note(path)
    elif event in CHANGES:
        note(given[0])
        if event in ("os.rename", "os.link", "os.symlink"):
            note(given[1])
    elif event == "socket.connect" and isinstance(given[1], tuple) and not is_here(given[1][0]):
        raise OSError(101, f"the test has cut the network off: {given[1]}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not is_here(given[0]):
        raise OSError(-3, f"the test has cut the network off: {given[0]}")


def tell():
    told = tempfile.mkstemp(dir=os.environ["WALLED"])[0]
    with open(told, "w") as file:
        file.write("\n".join(sorted(touched)))


if "WALLED" in os.environ:
    atexit.register(tell)
    sys.addaudithook(watch)
