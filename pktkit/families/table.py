"""The table of architecture families. Adding a family means adding one entry to `FAMILIES`."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from pktkit.errors import PairIncompatibleError, did_you_mean

ATTENTION = ("q", "k", "v", "o")
FEED_FORWARD = ("gate", "up", "down")
PROJECTIONS = ATTENTION + FEED_FORWARD


class Fusion(enum.StrEnum):
    """How the rows of a fused query-key-value matrix are laid out.

    STACKED: all query rows, then all key rows, then all value rows.
    INTERLEAVED: for each head its query, key and value rows, head after head.
    """

    STACKED = "stacked"
    INTERLEAVED = "interleaved"


@attrs.frozen
class Family:
    """One architecture family: module paths and the few facts that differ between families.

    Arguments:
        name: how pktkit calls the family.
        model_types: values of `config.model_type` that belong to it.
        blocks, embedding, final_norm, head: dotted module paths in the causal LM.
        projections: canonical projection name → module path inside a block.
        norms: canonical norm name → module path inside a block; absent modules are skipped,
            because query and key norms are options of some configurations.
        fusion: set when `q`, `k` and `v` name one module that holds all three.
        transposed: weights are stored `[in, out]` (transformers' `Conv1D`).
        gain_offset: what the final norm adds to its stored weight (Gemma multiplies by 1 + w).
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str
    embedding: str
    final_norm: str
    projections: Mapping[str, str]
    norms: Mapping[str, str]
    head: str = "lm_head"
    fusion: Fusion | None = None
    transposed: bool = False
    gain_offset: float = 0.0


_SEPARATE_ATTENTION = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
}
_GATED_FEED_FORWARD = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_HEAD_NORMS = {"q": "self_attn.q_norm", "k": "self_attn.k_norm"}

FAMILIES: tuple[Family, ...] = (
    Family(
        name="llama",
        model_types=("llama", "mistral", "smollm3", "qwen2", "qwen3"),
        blocks="model.layers",
        embedding="model.embed_tokens",
        final_norm="model.norm",
        projections=_SEPARATE_ATTENTION | _GATED_FEED_FORWARD,
        norms={"attention": "input_layernorm", "ffn": "post_attention_layernorm"} | _HEAD_NORMS,
    ),
    Family(
        name="gemma",
        model_types=("gemma",),
        blocks="model.layers",
        embedding="model.embed_tokens",
        final_norm="model.norm",
        projections=_SEPARATE_ATTENTION | _GATED_FEED_FORWARD,
        norms={"attention": "input_layernorm", "ffn": "post_attention_layernorm"},
        gain_offset=1.0,
    ),
    Family(
        name="gemma2",
        model_types=("gemma2", "gemma3_text"),
        blocks="model.layers",
        embedding="model.embed_tokens",
        final_norm="model.norm",
        projections=_SEPARATE_ATTENTION | _GATED_FEED_FORWARD,
        norms={
            "attention": "input_layernorm",
            "post_attention": "post_attention_layernorm",
            "ffn": "pre_feedforward_layernorm",
            "post_ffn": "post_feedforward_layernorm",
        }
        | _HEAD_NORMS,
        gain_offset=1.0,
    ),
    Family(
        name="gpt2",
        model_types=("gpt2",),
        blocks="transformer.h",
        embedding="transformer.wte",
        final_norm="transformer.ln_f",
        projections={
            "q": "attn.c_attn",
            "k": "attn.c_attn",
            "v": "attn.c_attn",
            "o": "attn.c_proj",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        },
        norms={"attention": "ln_1", "ffn": "ln_2"},
        fusion=Fusion.STACKED,
        transposed=True,
    ),
    Family(
        name="gpt_neox",
        model_types=("gpt_neox",),
        blocks="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        projections={
            "q": "attention.query_key_value",
            "k": "attention.query_key_value",
            "v": "attention.query_key_value",
            "o": "attention.dense",
            "up": "mlp.dense_h_to_4h",
            "down": "mlp.dense_4h_to_h",
        },
        norms={"attention": "input_layernorm", "ffn": "post_attention_layernorm"},
        fusion=Fusion.INTERLEAVED,
    ),
    Family(
        name="opt",
        model_types=("opt",),
        blocks="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        final_norm="model.decoder.final_layer_norm",
        projections={
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "o": "self_attn.out_proj",
            "up": "fc1",
            "down": "fc2",
        },
        norms={"attention": "self_attn_layer_norm", "ffn": "final_layer_norm"},
    ),
    Family(
        name="phi",
        model_types=("phi",),
        blocks="model.layers",
        embedding="model.embed_tokens",
        final_norm="model.final_layernorm",
        projections={
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "o": "self_attn.dense",
            "up": "mlp.fc1",
            "down": "mlp.fc2",
        },
        norms={
            "attention": "input_layernorm",
            "q": "self_attn.q_layernorm",
            "k": "self_attn.k_layernorm",
        },
    ),
)


def supported_model_types() -> tuple[str, ...]:
    """Return every `config.model_type` that some family covers, sorted."""
    return tuple(sorted(kind for family in FAMILIES for kind in family.model_types))


def family_of(model_type: str) -> Family:
    """Return the family of a `config.model_type`.

    Raises:
        PairIncompatibleError: no family covers it.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    supported = supported_model_types()
    raise PairIncompatibleError(
        f"architecture '{model_type}' is not supported.{did_you_mean(model_type, supported)} "
        f"Supported: {', '.join(supported)}. docs/families.md tells how to add a family "
        "(one entry in pktkit/families/table.py)."
    )
