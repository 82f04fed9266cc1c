"""``raytrain-xai``: the command group, and how errors leave the process.

Exit codes: 0 done, 1 a run failed, 2 wrong input; 130 (SIGINT) and 143 (SIGTERM) a run was stopped. One line on stderr
names what was wrong; ``--debug`` shows the stack.
"""

from __future__ import annotations

import logging
import sys

import click

from raytrain_xai import __version__
from raytrain_xai.cli.annotate import annotate_group
from raytrain_xai.cli.batch import batch_command
from raytrain_xai.cli.catalogue import catalogue_command
from raytrain_xai.cli.cluster import cluster_group
from raytrain_xai.cli.concepts import concepts_group
from raytrain_xai.cli.config import config_group
from raytrain_xai.cli.data import data_group
from raytrain_xai.cli.distill import distill_group
from raytrain_xai.cli.drift import drift_command
from raytrain_xai.cli.insight import insight_group
from raytrain_xai.cli.localise import localise_command
from raytrain_xai.cli.model import eval_command, explain_command, report_command
from raytrain_xai.cli.models import models_group
from raytrain_xai.cli.scale import scale_command
from raytrain_xai.cli.serve import serve_command
from raytrain_xai.cli.serve_keys import serve_keys_group
from raytrain_xai.cli.storage import storage_group
from raytrain_xai.cli.submit import submit_command
from raytrain_xai.cli.trace import trace_command
from raytrain_xai.cli.train import resume_command, train_command
from raytrain_xai.cli.tune import tune_group
from raytrain_xai.credentials import without_credentials
from raytrain_xai.errors import RunError, StoppedError, XaiError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
def cli(debug: bool) -> None:
    """Train, measure and explain vision models whose explanations lie on the object."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if debug:
        logging.getLogger("raytrain_xai").setLevel(logging.DEBUG)


cli.add_command(data_group)
cli.add_command(annotate_group)
cli.add_command(train_command)
cli.add_command(resume_command)
cli.add_command(tune_group)
cli.add_command(submit_command)
cli.add_command(eval_command)
cli.add_command(explain_command)
cli.add_command(report_command)
cli.add_command(localise_command)
cli.add_command(trace_command)
cli.add_command(catalogue_command)
cli.add_command(batch_command)
cli.add_command(serve_command)
cli.add_command(models_group)
cli.add_command(concepts_group)
cli.add_command(insight_group)
cli.add_command(distill_group)
cli.add_command(serve_keys_group)
cli.add_command(drift_command)
cli.add_command(cluster_group)
cli.add_command(storage_group)
cli.add_command(scale_command)
cli.add_command(config_group)


def main() -> None:
    """Entry point of the console script."""
    debug = "--debug" in sys.argv[1:]
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        _stop("interrupted", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except StoppedError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except XaiError as error:
        if debug:
            raise
        _stop(" ".join(str(error).split()), 1 if isinstance(error, RunError) else 2)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _stop(message: str, code: int) -> None:
    click.echo(f"error: {without_credentials(message)}", err=True)
    sys.exit(code)
