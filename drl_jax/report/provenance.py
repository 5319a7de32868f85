"""Which code, libraries and machine made a result. Every checkpoint and every result holds this."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from drl_jax import __version__
from drl_jax.machine import processor
from drl_jax.parallel.mesh import describe

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "grain")


def versions() -> dict[str, Any]:
    """Returns {"versions": of this package, Python and the libraries, "commit": of the checkout, or None}."""
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    return {
        "versions": {"drl_jax": __version__, "python": platform.python_version(), **libraries},
        "commit": _commit(),
    }


def machine() -> str:
    """Names the devices in use and the processor, as '2 cpu devices in 1 process, Intel Xeon'."""
    return f"{describe()}, {processor()}"


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # An installed copy may lie inside the checkout of another project, which does not track it.
    is_ours = described.returncode == 0 and tracked.returncode == 0
    return described.stdout.strip() or None if is_ours else None
