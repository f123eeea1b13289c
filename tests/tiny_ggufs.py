"""A GGUF file of a tiny llama, written as llama.cpp's converter does."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pktkit.pair import LoadedModel

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
CONTROL, NORMAL = 3, 1
NAMES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def write_gguf(handle: LoadedModel, file: Path) -> None:
    """Write a llama in full precision, with a byte-level tokenizer of as many tokens."""
    import gguf

    anatomy, config = handle.anatomy, handle.model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(anatomy.width)
    writer.add_block_count(anatomy.n_blocks)
    writer.add_feed_forward_length(anatomy.ffn_width)
    writer.add_head_count(anatomy.n_heads)
    writer.add_head_count_kv(anatomy.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(anatomy.head_dim)
    writer.add_vocab_size(anatomy.vocab_rows)
    letters = [chr(c) for c in (*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1))]
    tokens = [*SPECIAL, "a", "b", "Ġ", "ab", *letters[2:], *"0123456789"][: anatomy.vocab_rows]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in SPECIAL else NORMAL for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(3)
    for name, value in _tensors(handle).items():
        writer.add_tensor(name, value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(handle: LoadedModel) -> dict[str, Tensor]:
    anatomy, model = handle.anatomy, handle.model
    found = {
        "token_embd.weight": anatomy.embedding.weight.detach(),
        "output_norm.weight": anatomy.final_norm.weight.detach(),
        "output.weight": anatomy.head_weight.detach(),
    }
    for block in range(anatomy.n_blocks):
        for name, projection in anatomy.projections(block).items():
            value = projection.read(model)
            if name in ("q", "k"):
                value = _interleaved(value, anatomy.head_dim)
            found[f"blk.{block}.{NAMES[name]}.weight"] = value
        for name, parameter in anatomy.norms(block).items():
            short = {"attention": "attn_norm", "ffn": "ffn_norm"}[name]
            found[f"blk.{block}.{short}.weight"] = model.get_parameter(parameter).detach()
    return found


def _interleaved(value: Tensor, head_dim: int) -> Tensor:
    """Reorder a head's rows for llama.cpp, which rotates neighbours instead of halves."""
    halves = value.reshape(-1, 2, head_dim // 2, value.shape[1])
    return torch.transpose(halves, 1, 2).reshape(value.shape)
