"""Reading a source once and writing what others need of it."""

from __future__ import annotations

import copy
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

import pktkit
from pktkit.cache import ReadingCache
from pktkit.cache.address import library_versions, reading_code
from pktkit.checkpoints import quiet, require_writable
from pktkit.components import Kind
from pktkit.errors import DoesNotFitError, UsageError
from pktkit.offloaded import held
from pktkit.probe import Probe
from pktkit.probe.identity import model_content, tokenizer_content
from pktkit.running.boundary import checked_scores
from pktkit.states.record import READINGS, WEIGHTS, StatesRecord
from pktkit.states.source import evaluator_of, item_content
from pktkit.values import Origin

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.registry import Registry
    from pktkit.settings import ProbeSettings
    from pktkit.tasks.base import Task


@attrs.frozen
class Wanted:
    """What is written of a source; each names splits of the tasks.

    Arguments:
        states: splits whose block states are written.
        logits: splits whose logits are written; they need one tokenizer.
        attribution: splits whose gradients are read for attribution.
        answers: whether the source answers split `train`, and its states there are read too.
        scores: splits the source is scored on.
        layers: blocks whose states are written, -1 for the stream before the first; None for all.
    """

    states: tuple[str, ...] = ("train", "align")
    logits: tuple[str, ...] = ("train",)
    attribution: tuple[str, ...] = ()
    answers: bool = True
    scores: tuple[str, ...] = ("test",)
    layers: tuple[int, ...] | None = None


class _StrictCache(ReadingCache):
    """Readings that must be on disk."""

    def _give_up(self, error: Exception) -> None:
        raise DoesNotFitError(f"the states cannot be written: {error}.") from error


def write_states(
    pair: ModelPair,
    tasks: Sequence[Task],
    directory: Path,
    wanted: Wanted,
    registry: Registry,
    *,
    settings: ProbeSettings,
    progress: Callable[[str], None] = lambda what: None,
) -> StatesRecord:
    """Read a source and write what was read to a directory, which appears whole or not at all.

    Arguments:
        pair: the source, and a target whose tokenizer cuts the rows; its weights are not used.
        tasks: whose splits are read.
        directory: new or empty.
        wanted: what is written.
        registry: for the evaluators.
        settings: length limit, batch size and precision of states; limits of size do not count.
        progress: told what is about to be read.

    Raises:
        UsageError: the directory cannot be written to, or a task has no such split or a layer
            does not exist.
        PairIncompatibleError: logits are wanted and the tokenizers differ.
        DoesNotFitError: the disk is full.
    """
    require_writable(directory)
    layers = _layers(pair.source, wanted.layers)
    partial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        partial.mkdir(parents=True)
        cache = _StrictCache(partial / READINGS)
        unbounded = attrs.evolve(settings, max_bytes=1 << 62, cache_bytes=None)
        scores = {}
        for task in tasks:
            probe = Probe(pair, task, settings=unbounded, cache=cache)
            _read(probe, wanted, layers, progress)
            scores[task.name] = _scores(pair.source, task, wanted.scores, registry, progress)
        _write_parts(pair.source, partial)
        record = _record(pair, tasks, layers, scores, settings)
        record.write(partial)
        os.replace(partial, directory)
    except OSError as error:
        raise DoesNotFitError(f"'{directory}' cannot be written: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def _layers(source: LoadedModel, wanted: Sequence[int] | None) -> list[int]:
    """Return the blocks to write, ascending.

    Raises:
        UsageError: the source has no such block.
    """
    depth = source.anatomy.n_blocks
    for layer in wanted or ():
        if not -1 <= layer < depth:
            raise UsageError(
                f"--layers names {layer}; source '{source.name}' has blocks 0..{depth - 1} "
                "(-1 is the stream before the first)."
            )
    return list(range(-1, depth)) if wanted is None else sorted(set(wanted))


def _read(probe: Probe, wanted: Wanted, layers: list[int], progress: Callable[[str], None]) -> None:
    """Take the readings of one task."""
    if wanted.logits:
        probe.pair.require_same_tokenizer(
            "writing logits of the source", "Leave them out with --logits none."
        )
    task, same = probe.task.name, bool(wanted.logits)
    for split in dict.fromkeys((*wanted.states, *wanted.logits)):
        progress(f"{task}: states of split {split}")
        blocks = layers if split in wanted.states else []
        probe.forward_exactly(split, Origin.SOURCE, blocks=blocks, logits=split in wanted.logits)
    if wanted.answers:
        progress(f"{task}: answers to split train")
        probe.answered.forward_exactly("train", Origin.SOURCE, blocks=layers, logits=same)
    for split in wanted.attribution:
        progress(f"{task}: attribution on split {split}")
        probe.attribution(split)


def _scores(
    source: LoadedModel,
    task: Task,
    splits: Sequence[str],
    registry: Registry,
    progress: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Score the source on splits of a task."""
    found = {}
    for split in splits:
        progress(f"{task.name}: scores on split {split}")
        items = task.items(split)
        evaluator = registry.build(Kind.EVALUATOR, task.evaluator)
        scores = checked_scores(evaluator.evaluate(source, task, split), items)
        rows = [
            {**attrs.asdict(score), "content": item_content(item)}
            for item, score in zip(items, scores, strict=True)
        ]
        found[split] = {"evaluator": evaluator_of(task, split), "items": rows}
    return found


def _write_parts(source: LoadedModel, directory: Path) -> None:
    """Write configuration, tokenizer, final norm and LM head."""
    from safetensors.torch import save_file

    anatomy = source.anatomy
    config: Any = copy.deepcopy(source.model.config)
    config.tie_word_embeddings = anatomy.tied
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the parts that are written are plain
    kept = {id(p) for m in (anatomy.final_norm, anatomy.head) for p in m.parameters()}
    names = [n for n, p in source.model.named_parameters() if id(p) in kept]
    weights = {name: held(source.model, name).cpu().contiguous() for name in names}
    with quiet():
        config.save_pretrained(directory)
        source.tokenizer.save_pretrained(directory)
    save_file(weights, directory / WEIGHTS)


def _record(
    pair: ModelPair,
    tasks: Sequence[Task],
    layers: Sequence[int],
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]],
    settings: ProbeSettings,
) -> StatesRecord:
    source, target = pair.source, pair.target
    return StatesRecord(
        source=source.name,
        location=source.location,
        content=model_content(source),
        tokenizer=tokenizer_content(source.tokenizer),
        target=target.name,
        target_tokenizer=tokenizer_content(target.tokenizer),
        dtype=str(source.model.dtype),
        state_dtype=settings.state_dtype,
        max_length=settings.max_length,
        blocks=source.anatomy.n_blocks,
        width=source.anatomy.width,
        layers=layers,
        tasks={task.name: task.template for task in tasks},
        scores=scores,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        pktkit=pktkit.__version__,
        packages=library_versions(),
        code=reading_code(),
        device=source.anatomy.head_weight.device.type,
    )
