"""Facts about the machine that the program runs on."""

import hashlib
import os
import platform
from pathlib import Path


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use.

    In a container or under `taskset` these can be fewer than the machine has. Only Linux reports them;
    elsewhere this is `os.cpu_count()`.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Returns the name of the CPU, as 'Intel Xeon …'."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def machine_type() -> str:
    """Returns a name for machines that can run each other's compiled programs, as 'x86_64-1f3a5b7c'.

    XLA compiles for the instructions of the CPU that it runs on. A program from another CPU may be slow
    there, or crash.
    """
    features = " ".join(sorted(_cpuinfo().get("flags", "").split()))
    return f"{platform.machine()}-{hashlib.sha256(f'{processor()} {features}'.encode()).hexdigest()[:8]}"


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first core; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
