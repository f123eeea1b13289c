"""The same model in other coordinates: other token numbers, a turned residual stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pktkit.errors import UsageError
from pktkit.testing.models import SPECIAL_TOKENS, tiny_loaded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from pktkit.pair import LoadedModel

ROTATED_FAMILY = "llama"


def renumbered(loaded: LoadedModel, numbers: Sequence[int]) -> LoadedModel:
    """Give the tokens of a tiny model other numbers, in tokenizer, embedding and LM head alike.

    Arguments:
        loaded: from `tiny_loaded`; its vocabulary rows are permuted in place.
        numbers: new id of every token; special tokens (the first four) keep theirs.

    Raises:
        UsageError: `numbers` is no permutation of the vocabulary, or moves a special token.
    """
    size = loaded.anatomy.vocab_rows
    special = list(range(len(SPECIAL_TOKENS)))
    if sorted(numbers) != list(range(size)) or list(numbers[: len(special)]) != special:
        raise UsageError(
            f"numbers must be a permutation of 0..{size - 1} that leaves {special} where they are."
        )
    anatomy, moved = loaded.anatomy, torch.tensor(numbers)
    tables = {id(anatomy.embedding.weight): anatomy.embedding.weight}
    tables[id(anatomy.head_weight)] = anatomy.head_weight
    bias = getattr(anatomy.head, "bias", None)
    if bias is not None:
        tables[id(bias)] = bias
    with torch.no_grad():
        for table in tables.values():
            table[moved] = table.clone()
    return attrs.evolve(loaded, tokenizer=_renumbered_tokenizer(loaded.tokenizer, numbers))


def rotated(loaded: LoadedModel, rotation: Tensor) -> LoadedModel:
    """Turn the residual stream of a model: every state h becomes h·Q, the logits stay.

    Arguments:
        loaded: a Llama whose norms have gain 1, see `plain_llama`; turned in place.
        rotation: `Q`, orthogonal `[width, width]`.

    Raises:
        UsageError: another family, or gains other than 1.
    """
    anatomy, model = loaded.anatomy, loaded.model
    gains = [p for name, p in model.named_parameters() if "norm" in name]
    if anatomy.family != ROTATED_FAMILY or any(bool((gain != 1).any()) for gain in gains):
        raise UsageError(
            "only a Llama whose norms have gain 1 can be turned without changing what it says; "
            f"got family '{anatomy.family}'."
        )
    with torch.no_grad():
        tables = {id(w): w for w in (anatomy.embedding.weight, anatomy.head_weight)}
        for table in tables.values():
            table.copy_((table.double() @ rotation.double()).to(table.dtype))
        for block in range(anatomy.n_blocks):
            for name, projection in anatomy.projections(block).items():
                weight = model.get_parameter(projection.parameter)
                value = weight.double()
                turned = (
                    rotation.T.double() @ value
                    if name in ("o", "down")
                    else value @ rotation.double()
                )
                weight.copy_(turned.to(weight.dtype))
    return loaded


def plain_llama(*, seed: int, **sizes: Any) -> LoadedModel:
    """Build a tiny Llama whose norms have gain 1, so that it can be turned."""
    loaded = tiny_loaded(ROTATED_FAMILY, seed=seed, **sizes)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
    return loaded


def random_rotation(width: int, seed: int) -> Tensor:
    """Return a random orthogonal matrix, fp64 `[width, width]`."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(width, width, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(draw)[0]


def _renumbered_tokenizer(tokenizer: Any, numbers: Sequence[int]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = parts["model"]["vocab"]
    parts["model"]["vocab"] = {token: numbers[number] for token, number in vocabulary.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
        pad_token=tokenizer.pad_token,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
        model_max_length=tokenizer.model_max_length,
    )
