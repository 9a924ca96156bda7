"""The program `dupnet`: one verb a module, each of which parses, calls the package and prints.

A verb's module holds one click command named `command` and is imported when the verb is used, so that `dupnet --help`
and `dupnet detect` never wait for torch. Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed,
2 wrongly called.
"""

from __future__ import annotations

import errno
import io
import sys
from importlib import import_module
from typing import Any

import click

from dupnet import __version__
from dupnet.errors import DupnetError

VERBS = {
    "detect": "Find faces in photos.",
    "evaluate": "Measure and compare models on WIDER FACE or FDDB.",
    "wider-score": "Score any detector's prediction files by the rules of WIDER FACE.",
    "fddb-score": "Score any detector's detection files by the rules of FDDB.",
    "inspect": "Show what is in a packed model.",
    "zoo": "List the models that have names, and the paper's numbers.",
    "bench": "Measure a model's speed, stage by stage.",
    "cost": "Count bytes, operations and memory of a model.",
    "train": "Train a network by a recipe.",
    "convert": "Turn a checkpoint into a packed model, without loss.",
    "verify": "Prove that network, reference and core agree.",
    "sensitivity": "Measure what the quantization of each layer costs.",
    "search": "Propose duplication factors for a budget.",
    "ablate": "Measure ideas for a recipe, each alone.",
    "reproduce": "Run the experiments of the paper's tables and figures.",
    "anchors": "Cluster a data set's face sizes.",
}
"""Every verb, in the order of `dupnet --help`. The module of `fddb-score` is `dupnet.cli.fddb_score`."""

EXTRAS = {"torch": "train", "tensorboard": "train", "scipy": "evaluation", "matplotlib": "report", "jinja2": "report"}
"""Which extra brings a library that only some verbs need."""


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = import_module(f"dupnet.cli.{name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; what a user can mend is told in one line, without a traceback."""
        try:
            return super().invoke(ctx)
        except DupnetError as error:
            message = str(error)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(str(error.name).partition(".")[0])
            if extra is None:
                raise
            message = f"this needs {error.name}: pip install 'dupnet[{extra}]'"
        except OSError as error:
            if error.errno == errno.EPIPE or error.strerror is None:
                raise
            message = f"{error.filename or 'the output'}: {error.strerror}"
        report(message)
        ctx.exit(1)


def say(text: str, *, err: bool = False) -> None:
    """Print whole lines to stdout, or to stderr; a progress bar makes room for them and comes back below."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr if err else sys.stdout):
        click.echo(text, err=err)


def report(message: str) -> None:
    """Print one line about a failure to stderr."""
    say(f"dupnet: error: {' '.join(message.split())}", err=True)


@click.group(cls=_Verbs, subcommand_metavar="VERB ...", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dupnet")
def main() -> None:
    """Face detection with very tiny quantized networks. `dupnet VERB --help` tells more about a verb."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a photo's name that the terminal's encoding lacks is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
