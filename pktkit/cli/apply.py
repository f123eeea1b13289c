"""`pktkit apply`: restore a changed model from its delta."""

from __future__ import annotations

from pathlib import Path

import click

from pktkit.errors import UsageError


@click.command()
@click.argument("delta", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New or empty.")
@click.option("--max-shard-size", help="Split the checkpoint's weights, e.g. 5GB.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the target.")
def apply(
    delta: Path, target: str, out: Path, max_shard_size: str | None, trust_remote_code: bool
) -> None:
    """Apply DELTA to TARGET and write the model as a checkpoint.

    DELTA is a directory that `pktkit transfer --save delta` wrote. TARGET is the model it was
    made from, named as for every command; any other is refused.
    """
    from pktkit.checkpoints import require_writable
    from pktkit.checkpoints.adapter import is_adapter
    from pktkit.checkpoints.writing import checked_shard_size
    from pktkit.outputs import restore, sentence
    from pktkit.outputs.delta import read_manifest
    from pktkit.pair import load_model

    if is_adapter(delta):
        raise UsageError(
            f"'{delta}' is a PEFT adapter, not a delta. Every command reads target and adapter "
            f"as one model: {target}+{delta}."
        )
    size = checked_shard_size(max_shard_size)
    manifest = read_manifest(delta)
    require_writable(out)
    base = load_model(target, dtype=manifest["base"]["dtype"], trust_remote_code=trust_remote_code)
    record = restore(base, delta, out, max_shard_size=size)
    click.echo(f"wrote    {out}  {sentence(record)}")
