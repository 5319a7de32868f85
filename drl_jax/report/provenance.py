"""What code, on which machine, makes a result: kept in every checkpoint."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from drl_jax import __version__
from drl_jax.parallel import devices

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "grain")


def versions() -> dict[str, Any]:
    """{"versions": of this package, Python and the libraries, "commit": the checkout's, if it is one}."""
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    return {
        "versions": {"drl_jax": __version__, "python": platform.python_version(), **libraries},
        "commit": _commit(),
    }


def machine() -> str:
    """'2 cpu devices in 1 process, Intel Xeon …': the devices in use, and the processor's name."""
    return f"{devices.describe()}, {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
        inside = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # An installed copy may lie inside another project's checkout.
    return told.stdout.strip() or None if told.returncode == 0 and inside.returncode == 0 else None
