"""A program beside a rank that ends it when it can't end itself: a library may keep Python's lock.

    python -I -S guardian.py PID FD SECONDS SENTENCE

It is the child of the rank with that process id. It reads

* from FD the numbers of the signals that the rank gets: SECONDS after a SIGTERM it kills the rank,
  and says the SENTENCE;
* from its standard input lines of seconds and a sentence, with a tab between: it kills the rank,
  and says that sentence, so long after the last line; never if the seconds are inf.

It ends when the rank does. Time does not count in which the rank or this program is stopped.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

PERIOD = 1.0


def stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


def main() -> None:
    """Watch over the parent, to its end."""
    pid, told, grace = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    left, sentence, asked = float("inf"), "", False
    while os.getppid() == pid:
        begun = time.monotonic()
        ready, _, _ = select.select([0, told], [], [], min(PERIOD, max(left, 0.05)))
        if not stopped(pid):
            left -= min(time.monotonic() - begun, 2 * PERIOD)
        for file in ready:
            read = os.read(file, 65536)
            if not read:
                return
            if file == told:
                if signal.SIGTERM in read and not asked:
                    left, sentence, asked = grace, sys.argv[4], True
            elif not asked:
                seconds, _, sentence = read.decode().splitlines()[-1].partition("\t")
                left = float(seconds)
        if left <= 0 and os.getppid() == pid:
            with contextlib.suppress(OSError):  # nobody may read it any more
                os.write(2, f"pint-diffusion: error: {sentence}\n".encode())
            os.kill(pid, signal.SIGKILL)
            return


if __name__ == "__main__":
    main()
