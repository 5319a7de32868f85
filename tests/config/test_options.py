"""The flags of the applications: what they mean, and one line for what is wrong."""

import pytest

from drl_jax.commands import APPLICATIONS, COMMANDS
from drl_jax.config import options
from drl_jax.config.flags import command_of
from drl_jax.config.options import Inpaint, Interpolate
from drl_jax.config.overrides import parse, parse_model
from drl_jax.errors import UserError
from drl_jax.main import main


def refused(command, *argv):
    with pytest.raises(UserError) as error:
        parse_model(argv, command)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults_and_values():
    parsed = parse_model(["--model=digits"], "interpolate")
    assert (parsed.model, parsed.output, parsed.options, parsed.overrides) == (
        "digits", None, Interpolate(), {}
    )  # fmt: skip
    argv = ["--model", "runs/x", "--count", "1e1", "--level=3", "--between=a.png,b c.png", "--output=o"]
    parsed = parse_model([*argv, "--config.sampler.noise_scale=1"], "interpolate")
    assert parsed.options == Interpolate(count=10, level=3, between="a.png,b c.png")
    assert (parsed.model, parsed.output) == ("runs/x", "o")
    assert parsed.overrides == {"sampler.noise_scale": "1"}
    parsed = parse_model(["--model=digits", "--rectangle=(2, 0,3,8)"], "inpaint")
    assert parsed.options == Inpaint(rectangle=(2, 0, 3, 8))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("interpolate", "--model is missing; name a model that ships (cifar10, digits"),
        ("interpolate --model=", "--model is missing"),
        ("interpolate --workdir=run", "--workdir is not a flag of `interpolate`; write --model=run"),
        ("interpolate --workdir run", "write --model=run"),
        ("interpolate --config=digits", "--config is a flag of `train`"),
        (
            "interpolate --model=digits --count=1",
            "--count=1 is not possible: it must be a whole number of at l",
        ),
        (
            "interpolate --model=digits --count=few",
            "--count='few' is not possible: it must be a whole number",
        ),
        ("interpolate --model=digits --cuont=3", "--cuont is not a flag; did you mean --count=3?"),
        ("interpolate --model=digits --count=3 --count=4", "--count is given twice"),
        ("interpolate --model=digits --mask=x", "--mask is a flag of `inpaint`, not of `interpolate`"),
        ("interpolate --model=digits --rows", "--rows needs a value"),
        ("interpolate --model=digits --output=", "--output has no folder"),
        ("interpolate --model=digits --seed=−1", "seed=−1 has characters of a document; write --seed=-1"),
        ("interpolate --model=digits --seed=-1", "--seed=-1 is not possible: it must be a whole number betw"),
        ("inpaint --model=digits --rectangle=1,2,3", "TOP,LEFT,HEIGHT,WIDTH in pixels"),
        ("inpaint --model=digits --rectangle=1,2,0,3", "TOP,LEFT,HEIGHT,WIDTH in pixels"),
    ],
)
def test_what_is_wrong(argv, expected):
    assert expected in refused(*argv.split())


def test_flags_of_applications_are_none_of_others():
    with pytest.raises(UserError, match="--rectangle is a flag of `inpaint`, not of `train`"):
        parse(["--config=digits", "--rectangle=1,2,3,4"], "train")
    with pytest.raises(UserError, match=r"--output is a flag of `sample`, `evaluate`, .*not of `train`"):
        parse(["--config=digits", "--output=x"], "train")
    # A key of the config is what is meant more often.
    with pytest.raises(UserError, match=r"did you mean --config\.(training|evaluation)\.seed=3"):
        parse(["--config=digits", "--seed=3"], "train")


@pytest.mark.parametrize("name", sorted(APPLICATIONS))
def test_help_has_every_option(name, capsys):
    for argv in (["help", name], [name, "--help"]):
        assert command_of(argv, [*COMMANDS, *APPLICATIONS]) == ("help", [name])
        assert main(argv) == 0
        printed = capsys.readouterr().out
        assert all(f"--{option}=" in printed for option in options.keys(name))
        assert max(map(len, printed.splitlines())) <= 110
    assert main(["help"]) == 0
    assert f"  {name}" in capsys.readouterr().out
