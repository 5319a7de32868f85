"""The cache of compiled programs in jobs of several processes.

JAX reads its cache in every process and writes it in process 0 alone. That serves accelerators with one
folder for all hosts. Where each host has its own folder, the others compile everything again at each start.
So do they on CPUs, where the key of a program depends on the process. No setting changes this:
`jax_share_binary_between_hosts` sends a program only after a miss, and process 0 does not miss what it wrote.
"""

import os
from contextlib import suppress
from pathlib import Path

from drl_jax.machine import machine_type


def default_folder() -> Path | None:
    """Returns where compiled programs are kept: below $XDG_CACHE_HOME, or else ~/.cache.

    None if that cannot be written: a container may run as a user without a name and a home. A folder that
    others can write, such as /tmp, is no place for programs.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "drl_jax" / machine_type()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder if os.access(folder, os.W_OK) else None


def write_here(process_index: int) -> None:
    """Lets this process write the cache too, where JAX has the function that does it.

    Without that function, which is private, nothing changes but the time of a start.

    Args:
      process_index: the number of this process.
    """
    if process_index == 0:
        return
    with suppress(ImportError, AttributeError):
        from jax._src import compiler, distributed

        write, job = compiler._cache_write, distributed.global_state
        assert job.process_id == process_index

        def as_process_0(*arguments, **named):
            # The number decides, and is looked up in the call. Nothing else of JAX reads it meanwhile.
            job.process_id = 0
            try:
                write(*arguments, **named)
            finally:
                job.process_id = process_index

        compiler._cache_write = as_process_0
