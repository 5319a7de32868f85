"""A folder for what Matplotlib keeps on disk. Without one it refuses to be imported."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path


def provide_folder(last_resort: Path) -> None:
    """Gives Matplotlib a folder where its own cannot be written, as in a container without a home.

    Args:
      last_resort: the folder in which one is made if there is no place for temporary files either.
    """
    if os.environ.get("MPLCONFIGDIR") or "matplotlib" in sys.modules or _has_own():
        return
    try:
        folder = tempfile.mkdtemp(prefix="matplotlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    except OSError:
        folder = str(last_resort / ".matplotlib")
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError:  # whoever writes there next says so
            return
    os.environ["MPLCONFIGDIR"] = folder


def _has_own() -> bool:
    for variable, below_home in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache")):
        try:
            folder = Path(os.environ.get(variable) or Path.home() / below_home) / "matplotlib"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # RuntimeError: there is no home
            return False
        if not os.access(folder, os.W_OK):
            return False
    return True
