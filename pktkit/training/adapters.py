"""LoRA through peft, kept inside the journal: wrapped, trained, merged in fp32, unwrapped."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs

from pktkit.errors import JournalError, UsageError
from pktkit.training.loop import seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pktkit.families import Anatomy
    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel

ADAPTER = "default"
"""Name that peft knows the adapter by."""


@attrs.frozen
class LoraShape:
    """Size of a LoRA adapter.

    Arguments:
        rank: inner dimension r.
        alpha: the adapter adds `alpha / rank · B A`.
        dropout: on the adapter's input while training.
        kinds: canonical projection names, see `pktkit.families`; empty for all of a block's.
    """

    rank: int = attrs.field(default=16, validator=attrs.validators.ge(1))
    alpha: float = attrs.field(default=16.0, validator=attrs.validators.gt(0))
    dropout: float = attrs.field(
        default=0.0, validator=attrs.validators.and_(attrs.validators.ge(0), attrs.validators.lt(1))
    )
    kinds: tuple[str, ...] = ()


@attrs.define(eq=False)
class Adapter:
    """A live adapter on the target.

    Arguments:
        model: the peft model to train.
        parameters: its trainable parameters.
    """

    model: Any
    parameters: list[nn.Parameter]

    def layers(self) -> dict[str, Any]:
        """Return peft's LoRA layers by the name of the module they wrap."""
        from peft.tuners.lora import LoraLayer

        prefix = "base_model.model."
        return {
            name.removeprefix(prefix): module
            for name, module in self.model.named_modules()
            if isinstance(module, LoraLayer)
        }

    def inside(self, anatomy: Anatomy, block: int) -> list[nn.Parameter]:
        """Return the adapter's parameters at the projections of one of the target's blocks."""
        modules = {projection.module for projection in anatomy.projections(block).values()}
        return [
            parameter
            for name, layer in self.layers().items()
            if name in modules
            for parameter in layer.parameters()
            if parameter.requires_grad
        ]

    def start(self, module: str, b: Tensor, a: Tensor) -> None:
        """Set the adapter of one module to `B A` instead of zero.

        Arguments:
            module: dotted name of the wrapped module.
            b: `[out, rank]`; a: `[rank, in]`; for an embedding, out is the width and in the
                vocabulary.
        """
        import torch

        layer = self.layers()[module]
        embedding = ADAPTER in layer.lora_embedding_A
        down = layer.lora_embedding_A[ADAPTER] if embedding else layer.lora_A[ADAPTER].weight
        up = layer.lora_embedding_B[ADAPTER] if embedding else layer.lora_B[ADAPTER].weight
        for parameter, value in ((up, b), (down, a)):
            if parameter.shape != value.shape:
                raise JournalError(
                    f"the adapter of '{module}' has a factor of shape {tuple(parameter.shape)}, "
                    f"its start has {tuple(value.shape)}."
                )
            with torch.no_grad():
                parameter.copy_(value)


@contextlib.contextmanager
def lora(
    target: LoadedModel,
    journal: Journal,
    shape: LoraShape,
    *,
    blocks: Sequence[int] | None = None,
    ranks: Mapping[str, int] | None = None,
    seed: int | None = None,
) -> Iterator[Adapter]:
    """Attach a LoRA adapter, and on leaving merge it into the target's own parameters.

    The target's module tree is the same before and after. When the body raises, the adapter is
    dropped and nothing is merged. Merging computes `W + s·BA` in fp32 and casts once.

    Arguments:
        blocks: only these blocks are adapted; None for all.
        ranks: modules (dotted names) whose rank differs from the shape's; the scale
            `alpha / rank` stays the shape's.
        seed: of the adapter's random start; None draws from the global random state.

    Raises:
        UsageError: the family has no such projection, or embedding and LM head are tied and
            either is to be adapted.
    """
    from peft import get_peft_model

    config = _config(target, shape, module_names(target, shape, blocks), ranks or {})
    flags = {name: p.requires_grad for name, p in target.model.named_parameters()}
    with seeded(seed), warnings.catch_warnings():
        # peft asks transformers by a name that transformers is about to drop
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        wrapped = get_peft_model(target.model, config, adapter_name=ADAPTER)
    wrapped.train(target.model.training)
    adapter = Adapter(wrapped, [p for p in wrapped.parameters() if p.requires_grad])
    layers = adapter.layers()
    try:
        yield adapter
    finally:
        wrapped.unload()
        _forget_peft(target.model)
        for name, parameter in target.model.named_parameters():
            parameter.requires_grad_(flags[name])
    for name, layer in layers.items():
        journal.write(f"{name}.weight", base_weight(layer) + added_weight(layer))


def added_weight(layer: Any) -> Tensor:
    """Return `s·BA` of one of peft's LoRA layers in fp32, in the layout of the wrapped weight."""
    return layer.get_delta_weight(ADAPTER).detach().float()


def base_weight(layer: Any) -> Tensor:
    """Return the weight that one of peft's LoRA layers wraps, in fp32."""
    return layer.get_base_layer().weight.detach().float()


def _config(
    target: LoadedModel, shape: LoraShape, modules: list[str], ranks: Mapping[str, int]
) -> Any:
    from peft import LoraConfig

    patterns = {re.escape(module): rank for module, rank in ranks.items()}
    return LoraConfig(
        r=shape.rank,
        lora_alpha=cast(int, shape.alpha),  # annotated int, used as a float
        lora_dropout=shape.dropout,
        target_modules=modules,
        rank_pattern=patterns,
        alpha_pattern={key: shape.alpha / shape.rank * rank for key, rank in patterns.items()},
        bias="none",
        fan_in_fan_out=target.anatomy.layout.transposed,
    )


def module_names(target: LoadedModel, shape: LoraShape, blocks: Sequence[int] | None) -> list[str]:
    """Return the dotted names of the modules an adapter wraps.

    Raises:
        UsageError: the family has no such projection, or an end of tied embeddings is named.
    """
    kinds = shape.kinds or target.anatomy.projection_names
    if target.anatomy.tied and {"embed", "head"} & set(kinds):
        raise UsageError(
            f"target '{target.name}' ties embedding and LM head: an adapter on one of them would "
            "change both when merged. Leave 'embed' and 'head' out."
        )
    names = target.anatomy.module_names(kinds)
    if blocks is None:
        return names
    inside = {p.module for block in blocks for p in target.anatomy.projections(block).values()}
    return [name for name in names if name in inside]


def _forget_peft(model: Any) -> None:
    """Remove the mark that peft leaves on a model it once wrapped."""
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        vars(model).pop(attribute, None)
