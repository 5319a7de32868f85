"""`plan`: what a config needs on hardware that is not here."""

import json

from etils import epath

from drl_jax import files
from drl_jax.config import schema
from drl_jax.config.build import build
from drl_jax.config.schema import Config
from drl_jax.errors import UserError
from drl_jax.evaluation.reference import short_hash
from drl_jax.planning import report
from drl_jax.planning.compiler import open_compiler
from drl_jax.planning.plan import make_plan, sweep
from drl_jax.planning.topologies import parse


def plan(
    config: Config, folder: epath.Path, *, topology: str, slices: int, is_full: bool, sweeps: bool
) -> None:
    """Prints what a run of a config needs on a topology, and saves it as JSON and PNG.

    Args:
      config: the config.
      folder: where the files are written.
      topology: such as "v5e:4x4".
      slices: how many slices.
      is_full: compile the whole step and the sampler.
      sweeps: also estimate other sizes of the hardware, and the largest batch that fits.

    Raises:
      UserError: there is no such topology, or the config does not fit it.
    """
    build(config)  # a wrong value is refused here, in one line
    hardware = parse(topology, slices)
    if is_full and hardware.kind != "tpu":
        raise UserError(
            f"--full compiles for a TPU, and --topology={topology} is planned by formula; leave it out"
        )
    with open_compiler(needs_tpu=hardware.kind == "tpu") as compiler:
        made = make_plan(config, hardware, compiler, is_full=is_full, finds_largest=sweeps)
    table = sweep(config, made) if sweeps and made.times is not None else []
    for line in report.lines(config, made, table):
        print(line)
    # Plans of several configs for the same hardware are kept side by side.
    planned = short_hash(schema.to_dict(config))
    name = f"{hardware.label.replace(' ', '').replace(':', '_')}_{config.data.name}_{planned}"
    files.write(folder / f"{name}.json", json.dumps(report.to_dict(config, made, table), indent=1) + "\n")
    files.write(folder / f"{name}.png", report.image(config, made, table))
    print(f"saved as {folder / name}.json and .png")
    if not made.fits:
        raise UserError(report.refusal(config, made))
