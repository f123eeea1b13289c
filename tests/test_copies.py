"""A cast of a tiny model is what `copy.deepcopy` would give: equal, tied alike, and its own."""

from __future__ import annotations

import attrs
import pytest
import torch
from tiny_transfers import logits, same_bits, snapshot, tree

from pktkit.testing import FAMILIES, tiny_loaded
from pktkit.testing.copies import Mould


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cast_is_equal_and_its_own(family, tied):
    kept = tiny_loaded(family, tied=tied, seed=3)
    before, expected = snapshot(kept), logits(kept)
    mould = Mould(kept.model)
    first, second = (attrs.evolve(kept, model=mould.cast()) for _ in range(2))
    assert torch.equal(logits(first), expected)
    assert tree(first) == tree(kept)
    assert first.model.config.to_dict() == kept.model.config.to_dict()
    head, embedding = first.model.get_output_embeddings(), first.model.get_input_embeddings()
    assert (head.weight is embedding.weight) == tied

    with torch.no_grad():
        for tensor in (*first.model.parameters(), *first.model.buffers()):
            tensor.zero_()
    first.model.requires_grad_(False)
    first.model.config.use_cache = not kept.model.config.use_cache
    assert same_bits(kept, before) and torch.equal(logits(kept), expected), "what is kept"
    assert torch.equal(logits(second), expected), "another cast"
    assert torch.equal(logits(attrs.evolve(kept, model=mould.cast())), expected), "a later cast"
    assert second.model.config.use_cache == kept.model.config.use_cache
    assert all(parameter.requires_grad for parameter in second.model.parameters())
