"""A loaded model with its tokenizer and anatomy, and the pair a transfer works on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn

from pktkit.checkpoints import Loading, load, write_model
from pktkit.errors import PairIncompatibleError
from pktkit.families import Anatomy
from pktkit.offloaded import held
from pktkit.quantised import scales_of
from pktkit.values import Origin
from pktkit.vocabulary import SharedVocabulary, Spelling, shared_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE_TEXT = "The 12 quick foxes\n\tcount: 3 + 4 = 7; naïve «café» → def f(x): return x**2"
MIN_SHARE = 0.1
"""Pairs that share a smaller part of the smaller vocabulary are refused by vocabulary maps."""

_HASH_CHUNK = 1 << 26


@attrs.frozen(eq=False)
class LoadedModel:
    """A causal language model in memory.

    Arguments:
        name: short name for tables.
        model: in eval mode.
        tokenizer: its tokenizer.
        anatomy: where its parts are.
        location: what it was named by, see `pktkit.checkpoints.reference`.
        revision: commit of the hub it came from; empty for a model on disk.
    """

    name: str
    model: PreTrainedModel = attrs.field(repr=False)
    tokenizer: PreTrainedTokenizerBase = attrs.field(repr=False)
    anatomy: Anatomy
    location: str = ""
    revision: str = ""


@attrs.frozen
class TokenizerComparison:
    """Whether two tokenizers are the same, judged by what they hold and do, not by their class.

    Arguments:
        same: equal tokens with equal ids, and equal encodings of a probe text.
        source_size, target_size: tokens, added ones included.
        shared: tokens spelt alike in both vocabularies, whatever their ids.
    """

    same: bool
    source_size: int
    target_size: int
    shared: int


@attrs.frozen(eq=False)
class ModelPair:
    """The source whose knowledge moves and the target that receives it."""

    source: LoadedModel
    target: LoadedModel

    def model(self, origin: Origin) -> LoadedModel:
        """Return one of the two."""
        return self.source if origin is Origin.SOURCE else self.target

    @functools.cached_property
    def tokenizers(self) -> TokenizerComparison:
        """The comparison of the two tokenizers, made once."""
        return compare_tokenizers(self.source.tokenizer, self.target.tokenizer)

    @functools.cached_property
    def vocabulary(self) -> SharedVocabulary:
        """The tokens that mean the same to both models, matched once.

        Raises:
            PairIncompatibleError: a tokenizer has no fast backend.
        """
        sizes = vocab_size(self.source), vocab_size(self.target)
        if self.tokenizers.same:
            return SharedVocabulary.whole(min(sizes))
        return shared_vocabulary(
            self.source.tokenizer,
            self.target.tokenizer,
            source_size=sizes[0],
            target_size=sizes[1],
        )

    def require_shared_vocabulary(self, who: str) -> SharedVocabulary:
        """Return the shared vocabulary, or refuse a pair that shares less than `MIN_SHARE`.

        Arguments:
            who: the method that needs it, for the message.

        Raises:
            PairIncompatibleError: too few tokens are shared.
        """
        found = self.vocabulary
        if found.share >= MIN_SHARE:
            return found
        raise PairIncompatibleError(
            f"{who} needs tokens that stand for the same text in both vocabularies, but of the "
            f"{found.source_size} tokens of source '{self.source.name}' and the "
            f"{found.target_size} of target '{self.target.name}' only {len(found)} are shared: "
            f"{found.share:.1%} of the smaller vocabulary, expected at least {MIN_SHARE:.0%}. "
            "Choose a source with a closer tokenizer, or a strategy that needs no vocabulary map."
        )

    def require_same_tokenizer(self, who: str, instead: str = "", needs: str = "") -> None:
        """Refuse the pair unless both models share one tokenizer.

        Arguments:
            who: the method that needs it, for the message.
            instead: what to use with different tokenizers, a sentence for the message.
            needs: the same in a few words, see `pktkit.errors.PktkitError`.

        Raises:
            PairIncompatibleError: the tokenizers differ.
        """
        found = self.tokenizers
        if found.same:
            return
        if found.source_size == found.target_size == found.shared:
            reason = "the same tokens, but ids or encodings differ"
        else:
            reason = f"{found.shared} tokens are spelt alike"
        raise PairIncompatibleError(
            f"{who} needs source and target to share one tokenizer, but they differ: source "
            f"'{self.source.name}' has {found.source_size} tokens, target '{self.target.name}' "
            f"has {found.target_size}, {reason}.{f' {instead}' if instead else ''}",
            needs=needs,
        )

    def require_logits(self) -> None:
        """Refuse the pair unless logits of the two models are about the same tokens.

        Raises:
            PairIncompatibleError: the tokenizers differ.
        """
        self.require_same_tokenizer(
            "reading logits of the source",
            "Use an output term without them (output=cross-entropy), or a strategy without KL.",
            needs="injector.output=cross-entropy",
        )

    def require_states(self) -> None:
        """Refuse a pair whose states cannot be read at the same places of a text.

        Raises:
            PairIncompatibleError: the tokenizers differ, and one is not a fast one.
        """
        if not self.tokenizers.same:
            for side in (self.source, self.target):
                Spelling.of(side.tokenizer)


def load_model(
    reference: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quant: str = "none",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model in eval mode.

    Only safetensors and GGUF are read, and no code of the checkpoint is run unless asked for.

    Arguments:
        reference: directory, GGUF file, hub id, or base and adapter: see
            `pktkit.checkpoints.reference`.
        dtype, device, quant, trust_remote_code: see `pktkit.checkpoints.Loading`.

    Raises:
        UsageError: no such model, or a bad checkpoint.
        PairIncompatibleError: the architecture is not supported.
        DoesNotFitError: it does not fit the device's memory.
    """
    read = load(reference, Loading(dtype, device, quant, trust_remote_code))
    return LoadedModel(
        name=read.files.name,
        model=read.model,
        tokenizer=read.tokenizer,
        anatomy=Anatomy.of(read.model),
        location=reference,
        revision=read.files.revision,
    )


def load_pair(
    source: str, target: str, *, dtype: str = "float32", device: str = "cpu"
) -> ModelPair:
    """Load source and target alike; the source is frozen.

    Arguments and errors as in `load_model`, whose messages name the directory at fault.
    """
    return joined(
        load_model(source, dtype=dtype, device=device),
        load_model(target, dtype=dtype, device=device),
    )


def joined(source: LoadedModel, target: LoadedModel) -> ModelPair:
    """Return the pair of two loaded models; the source is frozen."""
    source.model.requires_grad_(False)
    return ModelPair(source=source, target=target)


def save_model(
    handle: LoadedModel, directory: str | Path, *, extra: Mapping[str, str] | None = None
) -> Path:
    """Write a model with tokenizer and generation configuration, and verify what was written.

    The directory appears complete or not at all.

    Arguments:
        handle: the model.
        directory: new or empty.
        extra: further text files by name.

    Returns:
        The directory.

    Raises:
        UsageError: the directory is not empty or cannot be written, or what was written does
            not read back bit for bit.
        DoesNotFitError: the disk is full.
    """
    path = Path(directory).expanduser()
    write_model(handle.model, handle.tokenizer, path, extra=extra)
    return path


def vocab_size(handle: LoadedModel) -> int:
    """Return the number of real tokens; rows that only pad the vocabulary are not counted.

    At most the rows of the LM head, for tokenizers that hold more than the model knows.
    """
    return min(len(handle.tokenizer), handle.anatomy.vocab_rows)


def compare_tokenizers(
    source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase
) -> TokenizerComparison:
    """Compare two tokenizers by vocabulary and by the encoding of a probe text."""
    ours, theirs = source.get_vocab(), target.get_vocab()
    same = ours == theirs and _encode(source) == _encode(target)
    return TokenizerComparison(
        same=same,
        source_size=len(ours),
        target_size=len(theirs),
        shared=len(ours.keys() & theirs.keys()),
    )


def describe(pair: ModelPair) -> dict[str, Any]:
    """Return what there is to know about a pair before a transfer, JSON-serialisable.

    Keys `source`, `target` (see `describe_model`) and `tokenizer` (`TokenizerComparison`, and
    the `atoms` both vocabularies share with their `share` of the smaller one).
    """
    shared = pair.vocabulary
    return {
        "source": describe_model(pair.source),
        "target": describe_model(pair.target),
        "tokenizer": {
            **attrs.asdict(pair.tokenizers),
            "atoms": len(shared),
            "share": round(shared.share, 4),
        },
    }


def describe_model(handle: LoadedModel) -> dict[str, Any]:
    """Return one model's name, place, family and sizes, JSON-serialisable."""
    anatomy = handle.anatomy
    return {
        "name": handle.name,
        "location": handle.location,
        "revision": handle.revision or None,
        "family": anatomy.family,
        "model_type": handle.model.config.model_type,
        "blocks": anatomy.n_blocks,
        "width": anatomy.width,
        "heads": anatomy.n_heads,
        "kv_heads": anatomy.n_kv_heads,
        "head_dim": anatomy.head_dim,
        "ffn": anatomy.ffn_width,
        "parameters": sum(p.numel() for p in handle.model.parameters()),
        "dtype": str(anatomy.head_weight.dtype).removeprefix("torch."),
        "device": str(anatomy.head_weight.device),
        "tied": anatomy.tied,
        "vocab": vocab_size(handle),
        "vocab_rows": anatomy.vocab_rows,
    }


def weights_hash(model: nn.Module) -> str:
    """Return a SHA-256 over names, shapes, dtypes and bytes of all parameters.

    Equal weights give equal hashes on every device and after a round trip through disk; a tied
    parameter counts once, under its first name. Tensors are read in chunks. The scales of packed
    weights count with their bits.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name}|{tuple(parameter.shape)}|{parameter.dtype}|".encode())
        for part in (held(model, name), *scales_of(model, name)):
            raw = part.detach().contiguous().reshape(-1).view(torch.uint8)
            for start in range(0, raw.numel(), _HASH_CHUNK):
                digest.update(raw[start : start + _HASH_CHUNK].cpu().numpy().tobytes())
    return digest.hexdigest()


def _encode(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(PROBE_TEXT)["input_ids"])
