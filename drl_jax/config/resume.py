"""What may change in the config when a run continues in its workdir."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from drl_jax import files
from drl_jax.checkpoints.orbax import FOLDER, steps
from drl_jax.config import schema
from drl_jax.config.schema import Config
from drl_jax.errors import UserError


def validate(saved: Mapping[str, Any], config: Config, workdir: epath.Path) -> list[str]:
    """Compares a config with the one that a run began with.

    A key that the saved config lacks was added to the program later. It counts with its default, so a new
    key does not lock out an existing workdir. A key that only the saved config has is gone from the
    program, and is ignored.

    Args:
      saved: the config of a checkpoint's record, or of the workdir's file, as JSON gives it.
      config: of now.
      workdir: of the run, for messages.

    Returns:
      One line for each key that changed and may change.

    Raises:
      UserError: keys changed that a checkpoint depends on; the message names each. Or a newer version of
        the program wrote the saved config.
    """
    refused, free = _changes(saved, config, f"the config of the run in --workdir={workdir}")
    if refused:
        raise UserError(
            f"--workdir={workdir} holds a run with other settings: {'; '.join(refused)}; "
            "take the old values, or another --workdir"
        )
    return free


def check_unchanged(saved: Mapping[str, Any], values: Mapping[str, Any], source: str) -> None:
    """Checks that a config is the one of given weights, but for keys that may change.

    Args:
      saved: the config of the weights, values by key.
      values: of now, of the same network. Whether they are possible is not checked.
      source: where the weights are from, for messages.

    Raises:
      UserError: keys changed that the weights depend on; the message names each.
    """
    refused, _ = _compare(saved, values, saved["network.name"])
    if refused:
        raise UserError(f"{source} was made with other settings: {'; '.join(refused)}; take the old values")


def _changes(saved: Mapping[str, Any], config: Config, source: str) -> tuple[list[str], list[str]]:
    """One line for each key that changed: those that a checkpoint depends on, and the others."""
    now = schema.flatten(schema.to_dict(config))
    return _compare(schema.complete(saved, source), now, config.network.name)


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], network: str) -> tuple[list[str], list[str]]:
    known = schema.keys(network)
    # Another network has other keys: its name alone is reported.
    changed = {
        key: f"config.{key} was {before[key]!r} and is {now[key]!r}"
        for key in known
        if key in before and _as_json(before[key]) != _as_json(now[key])
    }
    refused = [line for key, line in changed.items() if not known[key].is_free]
    return refused, [line for key, line in changed.items() if known[key].is_free]


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def changes_in_workdir(workdir: epath.Path, config: Config) -> list[str]:
    """Compares a config with the one in the workdir, like `validate`.

    Returns nothing where no checkpoint was saved yet, because all settings are still free there.
    """
    saved = workdir / schema.FILE
    if not files.exists(saved) or not steps(workdir / FOLDER):
        return []
    return validate(schema.read(saved), config, workdir)
