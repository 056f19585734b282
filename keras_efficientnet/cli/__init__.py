"""The command line: parse, call one function, print. Heavy imports stay inside commands."""

import io
import os
import sys
import warnings
from typing import Any

import click

from keras_efficientnet._version import __version__
from keras_efficientnet.cli.benchmark import benchmark
from keras_efficientnet.cli.compare import compare
from keras_efficientnet.cli.data import data
from keras_efficientnet.cli.evaluate import evaluate
from keras_efficientnet.cli.export import export
from keras_efficientnet.cli.info import info
from keras_efficientnet.cli.plot import plot
from keras_efficientnet.cli.predict import predict
from keras_efficientnet.cli.scale import scale
from keras_efficientnet.cli.train import train
from keras_efficientnet.cli.weights import weights
from keras_efficientnet.errors import InputError, RunError, StoppedRun
from keras_efficientnet.files import DISK_FULL

BAD_INPUT, FAILED_RUN = 2, 1

# TensorFlow reads this when it is imported; its start-up messages are not for users.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    """Entry point: bad input becomes one sentence and exit code 2, a failed run exit code 1."""
    warnings.formatwarning = _one_line
    _show_any_text()
    # Those that name no file; `images.collected_warnings` keeps the others.
    warnings.filterwarnings("ignore", module=r"PIL\b|pillow_heif\b")
    try:
        group.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        _fail("Interrupted.", 130)
    except click.ClickException as error:
        _fail(error.format_message(), BAD_INPUT)
    except InputError as error:
        _fail(str(error), BAD_INPUT)
    except StoppedRun as stop:
        click.echo(str(stop), err=True)
        sys.exit(stop.exit_code)
    except RunError as error:
        _fail(str(error), FAILED_RUN)
    except MemoryError:
        _fail(
            "There is not enough memory; use smaller images, batches or fewer workers.", FAILED_RUN
        )
    except OSError as error:
        if error.errno is None:  # a defect of the program, not the operating system's complaint
            raise
        code = FAILED_RUN if error.errno in DISK_FULL else BAD_INPUT
        _fail(f"{error.strerror}: {error.filename or 'output'}.", code)


def _one_line(message: Any, category: Any, *_: Any) -> str:
    """Writes a warning for people: without the place in the code."""
    kind = "Warning" if category is UserWarning else category.__name__
    return f"{kind}: {message}\n"


def _show_any_text() -> None:
    """Makes standard output replace what its encoding lacks, as many consoles' and pipes' do."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def _fail(message: str, code: int) -> None:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="keras-efficientnet")
def group() -> None:
    """EfficientNet: train on images, check the result, take it to a phone.

    Start with `keras-efficientnet train`: it trains on handwritten digits in a few
    minutes and writes verified model files to saved_models/digits-b0.
    """


def _keep_lines(command: click.Command) -> None:
    r"""Turns `\b` in raw docstrings into the backspace by which click keeps a paragraph's lines."""
    if command.help:
        command.help = command.help.replace(r"\b", "\b")
    for inner in getattr(command, "commands", {}).values():
        _keep_lines(inner)


for command in (
    data,
    train,
    evaluate,
    predict,
    benchmark,
    export,
    info,
    plot,
    weights,
    compare,
    scale,
):
    group.add_command(command)
_keep_lines(group)
