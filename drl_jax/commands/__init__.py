"""The commands: what each does, and how it is called. A command is imported when it runs, and JAX with it."""

import json
from pathlib import Path

from drl_jax import files
from drl_jax.config import schema
from drl_jax.config.overrides import Arguments, ModelArguments
from drl_jax.config.schema import Config
from drl_jax.parallel.preemption import Stop, raise_on_signal
from drl_jax.report.matplotlib_cache import provide_folder

COMMANDS = {
    "train": "train a model, or continue the run in --workdir",
    "sample": "draw samples from a trained model: samples.npz and images",
    "evaluate": "score a trained model by config.evaluation.metrics, and print the protocol",
    "export": "write the averaged weights of the model in --workdir to model.safetensors",
    "baseline": "score the data of --config against themselves: what a perfect model would score",
    "prepare": "download and prepare the data set of --config",
    "check": "read every example of the data set of --config once, and list those that cannot be used",
    "report": "write a page of HTML about the run in --workdir: report.html",
    "plan": "estimate memory, messages and hours on hardware that is not here; it needs none of it",
}
APPLICATIONS = {
    "interpolate": "draw images on the way between two others",
    "inpaint": "draw completions of images of which a part is known",
    "denoise": "add noise to images, and draw images from the result",
    "energy": "compute energies and scores of images, level by level",
    "likelihood": "estimate log Z of levels, and bits per dimension of the data",
    "detect": "measure how well energies distinguish other images from the data of a model",
    "chain": "run long Markov chains, and measure how they mix and what becomes of samples",
    "diagnose": "measure what the chain of each level does to images of the data",
}
NEED_WORKDIR = ("train", "sample", "evaluate", "export", "report")


def show(config: Config) -> None:
    """Prints a config with all its keys, as JSON."""
    print(json.dumps(schema.to_dict(config), indent=1))


def call(command: str, arguments: Arguments, stop: Stop) -> None:
    """Runs a command.

    Raises:
      UserError: something that the user chose is not right.
      Stopped: a signal came.
    """
    config, prepare_command = arguments.config, arguments.prepare_command
    workdir = files.absolute(arguments.workdir or "")
    output = files.absolute(arguments.output) if arguments.output else workdir
    provide_folder(Path(output) if files.is_local(output) else Path.cwd())
    if command == "prepare":
        from drl_jax.commands.prepare import prepare

        with raise_on_signal():
            return prepare(config)
    if command == "check":
        from drl_jax.commands.check import check

        with raise_on_signal():
            return check(config, prepare_command)
    if command == "report":
        from drl_jax.commands.report import report

        with raise_on_signal():
            return report(config, workdir, output)
    if command == "plan":
        from drl_jax.commands.plan import plan

        with raise_on_signal():
            return plan(
                config,
                workdir / "plan",
                topology=arguments.topology or "",
                slices=arguments.slices,
                is_full=arguments.full,
                sweeps=arguments.sweep,
            )

    from drl_jax.commands.job import configured_jax
    from drl_jax.config.restore import model_in

    with configured_jax(config):
        match command:
            case "train":
                from drl_jax.commands.train import train

                train(config, workdir, prepare_command, stop)
            case "sample":
                from drl_jax.commands.sample import sample

                sample(model_in(workdir, config), output, stop)
            case "evaluate":
                from drl_jax.commands.evaluate import evaluate

                evaluate(model_in(workdir, config), output, prepare_command, stop)
            case "export":
                from drl_jax.commands.export import export

                export(model_in(workdir, config), output, stop)
            case _:
                from drl_jax.commands.baseline import baseline

                baseline(config, prepare_command, stop)


def call_on_model(command: str, arguments: ModelArguments, stop: Stop) -> None:
    """Runs an application, or another command with --model.

    Args:
      command: the command.
      arguments: of the command line.
      stop: whether this process was asked to stop.

    Raises:
      UserError, Stopped: as `call`.
    """
    from drl_jax.commands.job import configured_jax
    from drl_jax.config.restore import find_model, prepare_command

    stored = find_model(arguments.model, arguments.overrides, f"--model={arguments.model}")
    if arguments.show:
        return show(stored.config)
    output = files.absolute(arguments.output) if arguments.output else stored.workdir or files.absolute("")
    provide_folder(Path(output) if files.is_local(output) else Path.cwd())
    with configured_jax(stored.config):
        match command:
            case "sample":
                from drl_jax.commands.sample import sample

                sample(stored, output, stop)
            case "evaluate":
                from drl_jax.commands.evaluate import evaluate

                evaluate(stored, output, prepare_command(stored.source, arguments.overrides), stop)
            case _:
                from drl_jax.commands.application import run

                assert arguments.options is not None
                run(command, stored, arguments.options, output, stop)
