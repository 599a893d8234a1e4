"""In the processes of a round this machine's clock is off by the seconds that the file ``CHAOS_CLOCK`` holds."""

import os
import time


def install(path):
    real, monotonic, known = time.time, time.monotonic, [0.0, 0.0]  # the offset, and when it was read

    def shifted():
        if (now := monotonic()) - known[1] > 0.1:
            try:
                with open(path) as file:
                    known[:] = float(file.read() or 0), now
            except OSError:
                known[1] = now
        return real() + known[0]

    time.time = shifted


if os.environ.get("CHAOS_CLOCK"):
    install(os.environ["CHAOS_CLOCK"])
