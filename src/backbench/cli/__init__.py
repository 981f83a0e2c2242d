"""The command line: one small module per verb; nothing heavy is imported before a verb needs it.

stdout is for results (with `--json`, exactly one JSON document), stderr for progress and messages.
Exit status: 0 done, 1 a run failed, 2 wrong usage, 130 interrupted, 143 ended by SIGTERM.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

from backbench.cli.adapt import adapt, resume
from backbench.cli.evaluate import evaluate
from backbench.cli.explain import explain
from backbench.cli.inbox import inbox
from backbench.cli.keep import keep
from backbench.cli.list import list_names
from backbench.cli.predict import predict
from backbench.cli.rank import rank
from backbench.cli.report import report
from backbench.cli.scan import scan
from backbench.cli.serve import serve
from backbench.cli.show import show
from backbench.cli.study import study
from backbench.stopping import end_quietly, raise_on_sigterm, stop_status

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
VERBS = (
    rank, keep, adapt, resume, evaluate, predict, explain, report, study, serve, inbox, scan, list_names, show
)  # fmt: skip


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        click.echo(f"backbench {version('backbench')}")
        context.exit()


class _InOrder(click.Group):
    """Lists its verbs in the order of first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands]  # `list` is a module here

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; unhandled Ctrl-C and SIGTERM end with our message and exit status, not click's."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            ctx.exit(stop_status())


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: backbench rank YOUR_FOLDER    (to try it without images: backbench rank digits). "
    "--debug prints the traceback of an error.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def app(context: click.Context) -> None:
    """Find the pretrained vision model that is best for your images: how to adapt it, how sure the result is,
    and what it costs."""
    _refuse_torchrun(context.invoked_subcommand)


def _refuse_torchrun(verb: str | None) -> None:
    from backbench.distributed import num_launched
    from backbench.errors import ConfigError

    if num_launched() > 1 and verb not in ("adapt", "resume"):
        raise ConfigError(
            f"torchrun started {num_launched()} processes, but '{verb}' needs only one. Run it without torchrun."
        )


for verb in VERBS:
    app.add_command(verb)


def _print_error(error: Exception) -> None:
    """Print an error to stderr: from each of several processes, except an interrupt, which reaches all of them."""
    from backbench.cli.output import print_error
    from backbench.distributed import launched_number
    from backbench.errors import Interrupted

    number = launched_number()
    if not (number and isinstance(error, Interrupted)):
        print_error(f"error{f' in process {number}' if number else ''}: {error}")


def main() -> None:
    """Entry point of the command; a user's mistake gives a message, never a traceback."""
    from backbench.errors import OUT_OF_MEMORY, BackbenchError, is_out_of_memory

    # Threads that spin while waiting make a busy machine many times slower. torch reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Large pages for large tensors: with small ones, training on a CPU loses a third of its time. Also read by
    # torch.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    raise_on_sigterm()
    try:
        app(arguments, prog_name="backbench")
    except BackbenchError as error:
        if debug:
            raise
        _print_error(error)
        sys.exit(error.exit_status)
    except (MemoryError, RuntimeError) as error:
        if debug or not is_out_of_memory(error):
            raise
        print(f"error: {OUT_OF_MEMORY}.", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has closed it
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:  # errors of named files are StorageErrors already
        if debug or error.filename is not None or error.errno not in NO_ROOM:
            raise
        _give_up_output(error)
    finally:
        end_quietly()
        try:  # before the interpreter does it, with a worse message
            if sys.stdout is not None:  # None if it was closed before
                sys.stdout.flush()
        except BrokenPipeError:
            pass
        except OSError as error:
            _give_up_output(error)


def _give_up_output(error: OSError) -> None:
    print(f"error: the results can't be written to stdout: {error.strerror}.", file=sys.stderr)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # drop the rest of its buffer
    sys.exit(1)
