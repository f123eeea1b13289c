"""The `pktkit` command. Each sub-command is a module that is imported when it is invoked."""

from __future__ import annotations

import click

import pktkit
from pktkit.cli.group import LazyCommand, PktkitGroup

COMMANDS = (
    LazyCommand("compare", "pktkit.cli.compare:compare", "Compare strategies on equal terms."),
    LazyCommand("report", "pktkit.cli.report:report", "Report a run again, or several as one."),
    LazyCommand(
        "reproduce", "pktkit.cli.reproduce:reproduce", "Repeat a run and compare the numbers."
    ),
    LazyCommand("sweep", "pktkit.cli.sweep:sweep", "Choose a strategy's settings on dev."),
    LazyCommand("transfer", "pktkit.cli.transfer:transfer", "Run one strategy and save the model."),
    LazyCommand("apply", "pktkit.cli.apply:apply", "Restore a model from a delta and its base."),
    LazyCommand("analyze", "pktkit.cli.analyze:analyze", "Draw what there is to see in a pair."),
    LazyCommand("inspect", "pktkit.cli.inspect:inspect", "Show two models and what suits them."),
    LazyCommand("plan", "pktkit.cli.plan:plan", "Show what a comparison would take."),
    LazyCommand("states", "pktkit.cli.states:states", "Read a source once for other runs."),
    LazyCommand("cache", "pktkit.cli.cache:cache", "Show or clear readings kept between runs."),
    LazyCommand("plugins", "pktkit.cli.plugins:plugins", "Show plugins and what they provide."),
    LazyCommand("zoo", "pktkit.cli.zoo:zoo", "Show or rebuild the embedded pair of models."),
)

EPILOG = """\
\b
Exit codes:
  0    it ran; "no evidence" is an ordinary answer
  1    a strategy failed
  2    wrong usage: an option, name, file or plugin
  3    source and target cannot be used together
  4    it does not fit the memory or disk at hand
  70   internal error
  130  interrupted

\b
Environment:
  PKTKIT_PLUGINS    load only these plugins (comma list; empty loads none)
  PKTKIT_CACHE      default of --cache; PKTKIT_CACHE_LIMIT that of --cache-limit
  PKTKIT_TRACEBACK  1 shows the traceback of an error
  NO_COLOR          no colours
"""


@click.group(
    cls=PktkitGroup,
    commands_by_path=COMMANDS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(pktkit.__version__, prog_name="pktkit")
@click.option("-v", "--verbose", is_flag=True, help="Log debugging lines.")
@click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
@click.option(
    "--no-plugins",
    metavar="[=NAMES]",
    help="Load no plugins; with =NAME[,NAME] all except these.",
)
@click.option(
    "--trace-plugins", is_flag=True, help="Show which component did what, when, with shapes."
)
@click.pass_context
def main(
    context: click.Context, verbose: bool, quiet: bool, no_plugins: str | None, trace_plugins: bool
) -> None:
    """Move what a source language model knows into a target, and measure what it brought.

    \b
    Try:  pktkit compare --strategies latent,seeking,naive
    """
    from pktkit.cli.context import AppContext

    if verbose and quiet:
        raise click.UsageError("--verbose and --quiet exclude each other.")
    context.obj = AppContext(
        verbosity=int(verbose) - int(quiet), no_plugins=no_plugins, trace_plugins=trace_plugins
    )
