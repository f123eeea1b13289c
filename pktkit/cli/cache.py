"""`pktkit cache`: what is kept of models between runs, and its removal."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pktkit.cli.options import CACHE_VARIABLE, LIMIT, cache_option, form_option
from pktkit.cli.units import AGE, shown_age, shown_size
from pktkit.errors import UsageError
from pktkit.tables import table

if TYPE_CHECKING:
    from pktkit.cache.directory import CacheDirectory, Entry

_WHICH = cache_option("The directory to look at.")


@click.group()
def cache() -> None:
    """Show or clear the readings that --cache keeps between runs."""


@cache.command()
@_WHICH
@LIMIT
@form_option("json")
def info(cache: Path | None, cache_limit: int | None, form: str) -> None:
    """Show each reading, its size and when it was last used."""
    directory = _opened(cache)
    entries = directory.entries()[::-1]
    if form == "json":
        click.echo(json.dumps(_as_json(directory, entries, cache_limit), indent=2))
        return
    if entries:
        headings = ["reading", "of", "task", "split", "rows", "size", "used", "key"]
        click.echo(table(headings, [_row(entry) for entry in entries], right={4, 5, 6}))
    limit = "none" if cache_limit is None else shown_size(cache_limit)
    total = shown_size(directory.size())
    click.echo(f"{directory.path}  {len(entries)} readings  {total}  limit {limit}")
    if foreign := directory.foreign():
        click.echo(f"not of pktkit: {len(foreign)} files or folders, e.g. {foreign[0]}")


@cache.command()
@_WHICH
@click.option("--older-than", type=AGE, help="Only readings not used for so long, e.g. 7d or 12h.")
def clear(cache: Path | None, older_than: float | None) -> None:
    """Remove readings, and what stopped runs left behind. They are read again when needed."""
    directory = _opened(cache)
    done = directory.clear(older_than)
    parts = [f"removed {done.entries} readings, {shown_size(done.bytes)}"]
    if done.leftovers:
        parts.append(f"{done.leftovers} leftovers of stopped runs")
    if done.kept:
        parts.append(f"kept {done.kept} used since")
    if done.busy:
        parts.append(f"kept {done.busy} in use by a running process")
    click.echo("; ".join(parts))


def _opened(path: Path | None) -> CacheDirectory:
    """Return the directory that is meant.

    Raises:
        UsageError: none is named, or there is none.
    """
    from pktkit.cache.directory import CacheDirectory

    if path is None:
        raise UsageError(f"no cache is named. Give --cache DIR, or set {CACHE_VARIABLE}.")
    if not path.is_dir():
        raise UsageError(f"there is no directory '{path}'.")
    return CacheDirectory(path)


def _row(entry: Entry) -> list[object]:
    about = _about(entry)
    return [
        about["reading"],
        about.get("model", about.get("of", "")),
        about.get("task", ""),
        about.get("split", ""),
        about.get("rows", ""),
        shown_size(entry.bytes),
        f"{shown_age(time.time() - entry.used)} ago",
        entry.folder.name[:12],
    ]


def _about(entry: Entry) -> dict[str, Any]:
    """Return what a reading is, for people."""
    if entry.manifest is None:
        return {"reading": f"unusable: {entry.reason}"}
    address = entry.manifest.address
    name = address.what["reading"]
    if name == "forward":
        name = "states and logits" if address.what["logits"] else "states"
    return {"reading": name, **address.about}


def _as_json(directory: CacheDirectory, entries: list[Entry], limit: int | None) -> dict[str, Any]:
    """Return everything there is to know, the parts of each address in the clear."""
    readings = [
        {
            **_about(entry),
            "key": entry.folder.name,
            "bytes": entry.bytes,
            "used": entry.used,
            "usable": entry.manifest is not None,
            **({} if entry.manifest is None else entry.manifest.to_json()),
        }
        for entry in entries
    ]
    return {
        "directory": str(directory.path),
        "bytes": directory.size(),
        "limit": limit,
        "readings": readings,
        "foreign": directory.foreign(),
    }
