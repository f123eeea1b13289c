"""A source whose readings are on disk and whose weights are not."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pktkit.cache import Address
from pktkit.cache.directory import CacheDirectory
from pktkit.cache.entries import DamagedEntryError, Manifest, load
from pktkit.errors import UsageError
from pktkit.outcomes import ItemScore
from pktkit.pair import LoadedModel
from pktkit.states.record import READINGS, WEIGHTS, StatesRecord

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.tasks.base import Item, Task

_OPTIONS = {
    "answers": "--answers",
    "attribution": "--attribution {split}",
    "forward": "--splits {split}",
}
"""Which option of `pktkit states write` writes a reading."""


@attrs.frozen(eq=False, kw_only=True)
class WrittenSource(LoadedModel):
    """A source of which readings, final norm and LM head were written to a directory.

    Its other weights have shapes but no values; whatever needs them raises `UsageError`.

    Arguments:
        directory: what `pktkit states write` made.
        record: what it says of itself.
        readings: where each reading is.
    """

    directory: Path
    record: StatesRecord
    readings: Mapping[Path, Manifest] = attrs.field(repr=False)
    _opened: dict[Path, Sequence[Mapping[str, Tensor]]] = attrs.field(factory=dict, init=False)

    def reading(self, address: Address) -> Sequence[Mapping[str, Tensor]]:
        """Return the shards of a reading.

        Raises:
            UsageError: it was not written, or of other rows; says with which option it is.
        """
        kind, split = address.what["reading"], address.about["split"]
        wanted = functools.partial(self._is, kind, address.what["data"])
        for folder, manifest in self.readings.items():
            if wanted(manifest):
                return self._open(folder)
        raise self._missing(kind, address.about["task"], split)

    def forward(
        self, task: str, split: str, data: str, *, blocks: Sequence[int], logits: bool
    ) -> Sequence[Mapping[str, Tensor]]:
        """Return the shards of a forward reading that holds blocks, and logits if asked for.

        Arguments:
            data: fingerprint of the rows.

        Raises:
            UsageError: it was not written, of other rows, or without these blocks or logits.
        """
        found = [f for f, m in self.readings.items() if self._is("forward", data, m)]
        if not found:
            raise self._missing("forward", task, split, "" if blocks else "--logits {split}")
        what = self.readings[found[0]].address.what
        lacking = sorted(set(blocks) - set(what["layers"]))
        if lacking:
            held = ", ".join(map(str, what["layers"])) or "none"
            raise UsageError(
                f"the states of split '{split}' in '{self.directory}' are those after blocks "
                f"{held}; asked for are also {', '.join(map(str, lacking))}. Write them with "
                f"pktkit states write --splits {split}, and without --layers or with these in it."
            )
        if logits and not what["logits"]:
            raise self._missing("forward", task, split, "--logits {split}")
        return self._open(found[0])

    def scores(self, task: Task, split: str) -> list[ItemScore]:
        """Return what the source scored on the items of a split.

        Raises:
            UsageError: its scores were not written, or of other items or another evaluator.
        """
        written = self.record.scores.get(task.name, {}).get(split)
        how = f"pktkit states write --task {task.name} --scores {split}"
        if written is None:
            raise UsageError(
                f"'{self.directory}' holds no scores of the source on split '{split}' of task "
                f"'{task.name}'. Write them with {how}."
            )
        by_content = {row["content"]: row for row in written["items"]}
        rows = [by_content.get(item_content(item)) for item in task.items(split)]
        unknown = sum(row is None for row in rows)
        if unknown or written["evaluator"] != evaluator_of(task, split):
            what = f"{unknown} of its {len(rows)} items" if unknown else "the evaluator"
            raise UsageError(
                f"the scores of the source in '{self.directory}' are of another form of split "
                f"'{split}' of task '{task.name}': {what} differ. Write them again with {how}."
            )
        return [
            ItemScore(item.id, row["score"], row["prediction"])
            for item, row in zip(task.items(split), rows, strict=True)
            if row is not None
        ]

    @staticmethod
    def _is(kind: str, data: str, manifest: Manifest) -> bool:
        what = manifest.address.what
        return bool(what["reading"] == kind and what.get("data") == data)

    def _open(self, folder: Path) -> Sequence[Mapping[str, Tensor]]:
        if folder not in self._opened:
            try:
                self._opened[folder] = load(folder, self.readings[folder])
            except (DamagedEntryError, OSError) as error:
                raise UsageError(
                    f"'{folder}' is damaged: {error}. Copy or write the directory again."
                ) from error
        return self._opened[folder]

    def _missing(self, kind: str, task: str, split: str, option: str = "") -> UsageError:
        """Build the error for a reading that was not written: what there is, and what to type."""
        option = (option or _OPTIONS.get(kind, "")).format(split=split)
        if not option:
            return UsageError(
                f"this needs readings that take the source's weights ({kind}), and "
                f"'{self.directory}' holds none. Give the model itself as --source."
            )
        name = "states and logits" if kind == "forward" else kind
        same = [
            m.address.about
            for m in self.readings.values()
            if m.address.what["reading"] == kind
            and (m.address.about["task"], m.address.about["split"]) == (task, split)
        ]
        if same and "--logits" not in option:
            template = self.record.tasks.get(task, "")
            return UsageError(
                f"the {name} of split '{split}' of task '{task}' in '{self.directory}' are of "
                f"other rows: written were {same[0]['rows']} rows with template '{template}', "
                f"at most {self.record.max_length} tokens and the tokenizer of "
                f"'{self.record.target}'. Use the same, or write the states again."
            )
        return UsageError(
            f"'{self.directory}' does not hold the {name} of split '{split}' of task '{task}'. "
            f"Write them with pktkit states write --task {task} {option}."
        )


def item_content(item: Item) -> str:
    """Return a hash of an item, its id included."""
    return hashlib.sha256(json.dumps(item.to_row(), sort_keys=True).encode()).hexdigest()


def evaluator_of(task: Task, split: str) -> dict[str, Any]:
    """Return what decides how answers are asked for and scored, JSON-serialisable."""
    facts = task.comparability(split)
    kept = {k: v for k, v in facts.items() if k not in ("key", "items", "content")}
    plain: dict[str, Any] = json.loads(json.dumps(kept, sort_keys=True, default=str))
    return plain


def open_source(location: str, *, device: str = "cpu") -> WrittenSource:
    """Open a directory that `pktkit states write` made, in place of the source.

    Arguments:
        location: the directory.
        device: where final norm and LM head are put.

    Raises:
        UsageError: it cannot be read, or is half-copied.
        PairIncompatibleError: the architecture is not supported.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from pktkit.checkpoints import quiet
    from pktkit.families import Anatomy

    directory = Path(location).expanduser()
    record = StatesRecord.read(directory)
    try:
        kept = load_file(directory / WEIGHTS)
        with quiet(), torch.device("meta"):
            config = AutoConfig.from_pretrained(directory, local_files_only=True)
            factory: Any = AutoModelForCausalLM
            dtype = getattr(torch, record.dtype.removeprefix("torch."))
            model = factory.from_config(config, dtype=dtype, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        raise UsageError(
            f"'{directory}' cannot be opened as a source: {str(error).splitlines()[0]} "
            "Copy or write the directory again."
        ) from error
    if config.tie_word_embeddings:
        model.tie_weights()
    _fill(model, kept, lambda name: _reason(record, directory, name), device)
    readings = {
        entry.folder: entry.manifest
        for entry in CacheDirectory(directory / READINGS).entries()
        if entry.manifest is not None
    }
    return WrittenSource(
        name=record.source,
        model=model.eval(),
        tokenizer=tokenizer,
        anatomy=Anatomy.of(model),
        location=location,
        directory=directory,
        record=record,
        readings=readings,
    )


def _fill(
    model: Any, kept: Mapping[str, Tensor], reason: Callable[[str], str], device: str
) -> None:
    """Give a skeleton the weights there are, and let it say so where there are none."""
    from pktkit.states.absent import AbsentParameter

    replaced: dict[int, torch.nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if name in kept:
            value = torch.nn.Parameter(kept[name].to(device), requires_grad=False)
        else:
            value = AbsentParameter(parameter, reason(name), torch.device(device))
        replaced[id(parameter)] = value
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = replaced[id(parameter)]

    def refuse(*arguments: object) -> None:
        raise UsageError(reason("a forward pass"))

    # buffers are absent too, and some are needed before the first absent parameter is
    for module in (model, model.base_model):
        module.register_forward_pre_hook(refuse)


def _reason(record: StatesRecord, directory: Path, name: str) -> str:
    return (
        f"this needs weights of source '{record.source}' ({name}), but '{directory}' holds only "
        "what was read of it, its final norm and its LM head. Strategies that learn from states, "
        "logits or answers run without weights; for this one, give the model itself as --source."
    )
