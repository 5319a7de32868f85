"""Facts about the machine that the program runs on."""

import os


def num_cores() -> int:
    """Number of CPU cores that this process may use.

    In a container or under `taskset` these can be fewer than the machine has. Only Linux reports them;
    elsewhere this is `os.cpu_count()`.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
