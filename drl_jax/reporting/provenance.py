"""What code makes a result: kept in every checkpoint."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from drl_jax import __version__

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "grain")


def versions() -> dict[str, Any]:
    """{"versions": of this package, Python and the libraries, "commit": the checkout's, if it is one}."""
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    return {
        "versions": {"drl_jax": __version__, "python": platform.python_version(), **libraries},
        "commit": _commit(),
    }


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
