"""Floating-point operations of a language model, by formula.

A multiplication and an addition are two operations. Counted are the products with weight matrices
and the two products of attention, which are nearly all of a transformer's work; norms, activation
functions, softmax, embedding look-ups, losses and the optimiser are not. With n tokens, a matrix of
`in × out`, H heads of size d, and T_q queries that look at T_k keys (no half is taken off for the
causal mask, since the kernels compute it too):

* a matrix, forward: `2 n · in · out`;
* attention of a block, forward: `4 T_q T_k · H d` per sequence;
* LM head: `2 m · width · V` for the m positions it is read at only;
* backward: the forward figure once for the gradient of the input, where something before it
  trains, and once for the gradient of the weight, where that trains; for attention twice.

So a step of full training costs three forward passes, one of a LoRA adapter two (the frozen
weights pass gradients on and get none) and three of the adapter's small matrices; checkpointing
adds the recomputed forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pktkit.families import Anatomy


def matrix_flops(tokens: int, inputs: int, outputs: int) -> int:
    """Return the operations of multiplying `[tokens, inputs]` with `[inputs, outputs]`."""
    return 2 * tokens * inputs * outputs


def attention_flops(sequences: int, queries: int, keys: int, width: int) -> int:
    """Return the operations of attention in one block.

    Arguments:
        sequences, queries, keys: how many sequences, and tokens of each on both sides.
        width: heads times the size of a head.
    """
    return 4 * sequences * queries * keys * width


@attrs.frozen
class ForwardCost:
    """What a model's forward pass costs, from its sizes.

    Arguments:
        blocks: depth.
        block_weights: entries of a block's weight matrices.
        attention_width: query heads times the size of a head.
        head_weights: entries of the LM head.
    """

    blocks: int
    block_weights: int
    attention_width: int
    head_weights: int

    @classmethod
    def of(cls, anatomy: Anatomy) -> ForwardCost:
        """Read the sizes off a model; a matrix that holds several projections counts once."""
        width, heads, keys = anatomy.width, anatomy.n_heads, anatomy.n_kv_heads
        attention = anatomy.head_dim * heads
        matrices = len({"gate", "up", "down"} & set(anatomy.projection_names))
        weights = width * (2 * attention + 2 * anatomy.head_dim * keys)
        weights += matrices * width * anatomy.ffn_width
        return cls(anatomy.n_blocks, weights, attention, anatomy.vocab_rows * width)

    def blocks_flops(self, lengths: Iterable[int]) -> int:
        """Return the operations of all blocks on sequences of these lengths, without padding."""
        per_token = 2 * self.block_weights
        return self.blocks * sum(
            per_token * length + attention_flops(1, length, length, self.attention_width)
            for length in lengths
        )

    def head_flops(self, positions: int) -> int:
        """Return the operations of the LM head on so many positions."""
        return 2 * self.head_weights * positions
