"""Where a benchmark's rows come from: files of one's own, an installed package, or the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from pktkit.errors import UsageError, did_you_mean
from pktkit.tasks.base import Item
from pktkit.tasks.jsonl import rows_of
from pktkit.tasks.jsonl_files import read_rows
from pktkit.tasks.training import LEARNING

RawRow = Mapping[str, Any]
RawSplits = Mapping[str, Sequence[RawRow]]

_ENDINGS = r"(?:jsonl|jsonl\.gz|json|parquet)"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@attrs.frozen
class Source:
    """Where the rows of a benchmark are published, and what they look like.

    Arguments:
        name: of the benchmark.
        hub, config: id and configuration of the data set on the Hub.
        splits: its official splits.
        columns: columns that every row must have.
        prefixes: how files of several benchmarks in one folder are told apart.
        packaged: returns the rows of an installed package, or None where it is not installed.
        package: how to install that package.
    """

    name: str
    hub: str
    config: str
    splits: tuple[str, ...]
    columns: tuple[str, ...]
    prefixes: tuple[str, ...]
    packaged: Callable[[], RawSplits | None] = lambda: None
    package: str = ""

    def rows(self, data: str = "") -> RawSplits:
        """Return the rows of every official split that is there.

        Arguments:
            data: a folder or file, or another id on the Hub; empty for the installed package,
                and else the benchmark's own id on the Hub, which works offline once cached. A
                folder that holds rows to learn from and nothing else counts as empty.

        Raises:
            UsageError: there are no rows; the message says what would give some.
        """
        if data and (Path(data).expanduser().exists() or not _HUB_ID.fullmatch(data)):
            found = self._local(Path(data).expanduser())
            if not found and self.has_lessons(data):
                found = self._default()
        else:
            found = self._hub(data) if data else self._default()
        for split, rows in found.items():
            self._check(split, rows)
        return found

    def _default(self) -> RawSplits:
        return self.packaged() or self._hub(self.hub)

    def _local(self, path: Path) -> RawSplits:
        if path.is_file():
            return {"": [value for _, value in read_rows(path)]}
        if not path.is_dir():
            near = [entry.name for entry in path.parent.glob("*")] if path.parent.is_dir() else []
            raise UsageError(f"{path} does not exist.{did_you_mean(path.name, near)} {self.ways()}")
        found = {}
        for split in self.splits:
            files = self._files(path, split)
            if files:
                found[split] = [value for file in files for _, value in read_rows(file)]
        whole = [file for name in self.prefixes for file in _matching([path], re.escape(name))]
        if not found and whole:
            found[""] = [value for _, value in read_rows(whole[0])]
        return found

    def _files(self, path: Path, split: str) -> list[Path]:
        """Return the files of a split, in the layouts of the Hub and of plain folders."""
        folders = [path / self.config, path, path / "data"]
        names = "|".join(map(re.escape, self.prefixes))
        return _matching(folders, rf"(?:(?:{names})[_-])?{split}(?:-\d+-of-\d+)?")

    def _hub(self, identifier: str) -> RawSplits:
        import datasets

        try:
            loaded = datasets.load_dataset(identifier, self.config)
        except Exception as error:
            # datasets raises whatever its network, file and script layers raise.
            said = " ".join(str(error).split())[:200].rstrip(".")
            raise UsageError(
                f"data set {identifier} ({self.config}) cannot be loaded from "
                f"the Hub or its cache: {type(error).__name__}: {said}. {self.ways()}"
            ) from error
        return {split: loaded[split].to_list() for split in self.splits if split in loaded}

    def ways(self) -> str:
        """Say in one sentence how rows can be given."""
        package = f"; `{self.package}`" if self.package else ""
        return (
            f"Rows can come from: files with columns {', '.join(self.columns)}, as "
            f"`--task {self.name}@DIR` where DIR holds {self.splits[0]}.jsonl or .parquet and so "
            f"on; the Hub data set {self.hub}, loaded once while connected{package}."
        )

    def _check(self, split: str, rows: Sequence[RawRow]) -> None:
        for number, row in enumerate(rows, start=1):
            missing = [c for c in self.columns if not isinstance(row, Mapping) or c not in row]
            if missing:
                listed = ", ".join(map(str, row)) if isinstance(row, Mapping) else repr(row)[:60]
                raise UsageError(
                    f"row {number} of {split or 'the file'} has no column "
                    f"'{missing[0]}'; expected {', '.join(self.columns)}, got {listed}."
                )

    def lessons(self, location: str) -> dict[str, tuple[Item, ...]]:
        """Return rows to learn from by split: those of a file, or the split files of a folder.

        The files of a folder are called as the published ones, `gsm_train_split.jsonl` and so
        on for `align` and `extract`.

        Raises:
            UsageError: the location does not exist or has a faulty row.
        """
        path = Path(location).expanduser()
        if path.is_file():
            return {"train": _items(path, self.name, "train")}
        if not path.is_dir():
            raise UsageError(f"rows to train on, {path}, do not exist.")
        return {
            split: tuple(item for file in files for item in _items(file, self.name, split))
            for split in LEARNING
            if (files := self._lesson_files(path, split))
        }

    def _lesson_files(self, path: Path, split: str) -> list[Path]:
        names = "|".join(map(re.escape, self.prefixes))
        return _matching([path], rf"(?:{names})[_-]{split}[_-]split")

    def has_lessons(self, location: str) -> bool:
        """Tell whether a folder holds split files to learn from."""
        path = Path(location).expanduser()
        return bool(location) and path.is_dir() and bool(self._lesson_files(path, "train"))


def _matching(folders: Sequence[Path], stem: str) -> list[Path]:
    """Return the files called so in the first folder that has any."""
    pattern = re.compile(rf"{stem}\.{_ENDINGS}", re.IGNORECASE)
    for folder in folders:
        found = [file for file in _entries(folder) if pattern.fullmatch(file.name)]
        if found:
            # Shards of one split belong together, the same rows in two formats do not.
            first = found[0].name.split(".", 1)[1]
            return [file for file in found if file.name.split(".", 1)[1] == first]
    return []


def _entries(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir()) if folder.is_dir() else ())


def _items(path: Path, name: str, split: str) -> tuple[Item, ...]:
    return tuple(row.item for row in rows_of(path, name, split=split))
