"""Tiny models of every supported architecture, built in memory without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from pktkit.errors import unknown_name
from pktkit.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from pktkit.pair import LoadedModel

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")

# What a family's configuration calls things, and what it needs beyond the common sizes.
_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
_NO_DROPOUT_GPT2 = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
_RENAMED: Mapping[str, Mapping[str, str]] = {
    "gpt2": _GPT2_NAMES,
    "opt": {"intermediate_size": "ffn_dim"},
}
_EXTRA: Mapping[str, Mapping[str, Any]] = {
    "gemma2": {"sliding_window": 64, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 64, "query_pre_attn_scalar": 16},
    "gpt2": _NO_DROPOUT_GPT2,
    "opt": {"dropout": 0.0},
}
_WIDE_HEADS = ("qwen3", "gemma", "gemma2", "gemma3_text")
_ONE_KEY_PER_QUERY = ("gpt2", "gpt_neox", "opt")
_TIED_BY_DEFAULT = ("gemma", "gemma2", "gemma3_text", "gpt2", "opt")

FAMILIES: tuple[str, ...] = (
    "llama",
    "mistral",
    "smollm3",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "opt",
    "phi",
)
"""Names that `tiny_model` knows: values of `config.model_type`."""


def tiny_model(
    family: str,
    *,
    width: int = 32,
    blocks: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    ffn: int = 48,
    vocab: int = 61,
    tied: bool | None = None,
    seed: int = 0,
    **config: Any,
) -> PreTrainedModel:
    """Build a tiny random causal language model in eval mode, float32.

    Every parameter is random, norms and biases included, so that a law that ignores one of them
    fails. The global random state is left as it was.

    Arguments:
        family: one of `FAMILIES`.
        width, blocks, heads, ffn, vocab: sizes; `vocab` counts rows of embedding and LM head.
        kv_heads: ignored by families that have one key head per query head.
        head_dim: default `width // heads`, or 16 where the family allows heads of another size.
        tied: whether LM head and embedding share storage; None for the architecture's default.
        seed: of the weights.
        config: further fields of the family's transformers configuration.

    Raises:
        UsageError: unknown family.
    """
    if family not in FAMILIES:
        raise unknown_name("tiny model family", family, FAMILIES)
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "max_position_embeddings": 128,
        "tie_word_embeddings": family in _TIED_BY_DEFAULT if tied is None else tied,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family not in _ONE_KEY_PER_QUERY:
        fields["num_key_value_heads"] = kv_heads
    if family in _WIDE_HEADS or (head_dim is not None and family in ("llama", "mistral")):
        fields["head_dim"] = 16 if head_dim is None else head_dim
    renamed = _RENAMED.get(family, {})
    fields = {renamed.get(name, name): value for name, value in fields.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = AutoConfig.for_model(family, **(fields | dict(_EXTRA.get(family, {})) | config))
        factory: Any = AutoModelForCausalLM
        model = factory.from_config(settings, dtype=torch.float32)
        _randomise(model, family_of(family).gain_offset)
    return cast("PreTrainedModel", model.eval())


def tiny_tokenizer(vocab: int = 61) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer over `<pad> <bos> <eos> <unk> t0 t1 …`, `vocab` tokens in all.

    `<bos>` is put in front of every encoded text unless special tokens are switched off.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL_TOKENS, *(f"t{i}" for i in range(vocab - len(SPECIAL_TOKENS)))]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=128,
    )


def tiny_loaded(
    family: str, *, name: str | None = None, vocab: int = 61, **sizes: Any
) -> LoadedModel:
    """Build a tiny model with its tokenizer.

    Arguments:
        family: one of `FAMILIES`.
        name: default the family's name.
        vocab: tokens, and rows of embedding and LM head.
        sizes: further arguments of `tiny_model`.
    """
    from pktkit.families import Anatomy
    from pktkit.pair import LoadedModel

    model = tiny_model(family, vocab=vocab, **sizes)
    return LoadedModel(
        name=name or family,
        model=model,
        tokenizer=tiny_tokenizer(vocab),
        anatomy=Anatomy.of(model),
        location=f"tiny:{family}",
    )


def _randomise(model: nn.Module, gain_offset: float) -> None:
    """Draw matrices with unit gain, norm weights near their neutral value, small biases."""
    fills: Mapping[str, Callable[[torch.Tensor], object]] = {
        "embedding": lambda p: p.normal_(0.0, 0.5),
        "matrix": lambda p: p.normal_(0.0, p.shape[-1] ** -0.5),
        "gain": lambda p: p.normal_(1.0 - gain_offset, 0.2),
        "bias": lambda p: p.normal_(0.0, 0.2),
    }
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if id(parameter) in embeddings:
                kind = "embedding"
            elif parameter.dim() > 1:
                kind = "matrix"
            else:
                kind = "bias" if name.endswith("bias") else "gain"
            fills[kind](parameter)
