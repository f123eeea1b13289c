"""An architecture family bound to one loaded model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs
import torch
from torch import Tensor, nn

from pktkit.errors import PairIncompatibleError, UsageError, unknown_name
from pktkit.families.projection import Projection, fused_rows
from pktkit.families.table import PROJECTIONS, Family, family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBED = "embed"
HEAD = "head"


@attrs.frozen(eq=False)
class Anatomy:
    """Sizes and places of a causal language model, in canonical words.

    Modules are looked up in `model` each time, so they are never stale. Build it with
    `Anatomy.of`.

    Arguments:
        model: the model it describes.
        layout: the family's entry in the table.
        width: size of the residual stream.
        n_blocks: depth.
        n_heads, n_kv_heads: query heads, key-value heads (equal without grouped queries).
        head_dim: size of one head; need not be `width / n_heads`.
        ffn_width: neurons of a feed-forward layer.
    """

    model: PreTrainedModel = attrs.field(repr=False)
    layout: Family = attrs.field(repr=False)
    width: int
    n_blocks: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_width: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Anatomy:
        """Read the anatomy of a causal language model.

        Raises:
            PairIncompatibleError: unknown architecture, or a variant that no family describes.
        """
        config: Any = model.config
        layout = family_of(config.model_type)
        width, n_heads = int(config.hidden_size), int(config.num_attention_heads)
        blocks = cast(nn.ModuleList, _submodule(model, layout, layout.blocks))
        first = f"{layout.blocks}.0"
        up: Any = _submodule(model, layout, f"{first}.{layout.projections['up']}")
        anatomy = cls(
            model=model,
            layout=layout,
            width=width,
            n_blocks=len(blocks),
            n_heads=n_heads,
            n_kv_heads=int(getattr(config, "num_key_value_heads", None) or n_heads),
            head_dim=int(getattr(config, "head_dim", None) or width // n_heads),
            # the weight of a quantised layer is packed, its shape says nothing
            ffn_width=int(getattr(up, "out_features", 0) or up.nf),
        )
        anatomy._check()
        return anatomy

    @property
    def family(self) -> str:
        """Name of the architecture family."""
        return self.layout.name

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The blocks, shallow to deep."""
        return tuple(cast(nn.ModuleList, self._module(self.layout.blocks)))

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the LM head."""
        return self._module(self.layout.final_norm)

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding."""
        return cast(nn.Embedding, self._module(self.layout.embedding))

    @property
    def head(self) -> nn.Linear:
        """The LM head."""
        return cast(nn.Linear, self._module(self.layout.head))

    @property
    def head_weight(self) -> nn.Parameter:
        """Weight of the LM head, `[vocab_rows, width]`."""
        return cast(nn.Parameter, self.head.weight)

    @property
    def vocab_rows(self) -> int:
        """Rows of the LM head; may exceed the tokenizer's vocabulary, which is not padded."""
        return int(self.head_weight.shape[0])

    @property
    def tied(self) -> bool:
        """Whether LM head and embedding share storage; the configuration is not consulted."""
        head, embedding = self.head_weight, self.embedding.weight
        # tensors without storage, as on the meta device, all begin at 0
        same_storage = head.data_ptr() == embedding.data_ptr() != 0
        return head is embedding or (same_storage and head.device == embedding.device)

    def final_norm_gain(self) -> Tensor:
        """Return what the final norm multiplies each channel by, `[width]`, a float32 copy."""
        weight = getattr(self.final_norm, "weight", None)
        if weight is None:
            return torch.ones(self.width, device=self.head_weight.device)
        return cast(Tensor, weight.detach().float().clone() + self.layout.gain_offset)

    def final_norm_bias(self) -> Tensor | None:
        """Return what the final norm adds, `[width]`, a float32 copy; None if it adds nothing."""
        bias = getattr(self.final_norm, "bias", None)
        return None if bias is None else cast(Tensor, bias.detach().float().clone())

    def projections(self, block: int) -> Mapping[str, Projection]:
        """Return the projections of a block by canonical name, in the order q k v o gate up down.

        Raises:
            UsageError: there is no such block.
        """
        prefix = self._prefix(block)
        return {
            name: self._projection(name, block, f"{prefix}.{self.layout.projections[name]}")
            for name in self.projection_names
        }

    @property
    def projection_names(self) -> tuple[str, ...]:
        """Canonical projections that the family has; `gate` is absent in ungated families."""
        return tuple(name for name in PROJECTIONS if name in self.layout.projections)

    def norms(self, block: int) -> Mapping[str, str]:
        """Return parameter names of a block's norms by canonical name.

        `attention` and `ffn` are the norms before the two halves of a block, `post_attention`
        and `post_ffn` those after them, `q` and `k` those of queries and keys. Where a norm has
        a bias, `<name>.bias` names it. A parallel block may have only `attention`.

        Raises:
            UsageError: there is no such block.
        """
        prefix = self._prefix(block)
        known = set(self.block_parameters(block))
        found = {}
        for name, path in self.layout.norms.items():
            for key, parameter in ((name, "weight"), (f"{name}.bias", "bias")):
                full = f"{prefix}.{path}.{parameter}"
                if full in known:
                    found[key] = full
        return found

    def block_parameters(self, block: int) -> tuple[str, ...]:
        """Return names of all parameters of a block, as in `model.named_parameters()`.

        Raises:
            UsageError: there is no such block.
        """
        prefix = self._prefix(block) + "."
        return tuple(name for name, _ in self.model.named_parameters() if name.startswith(prefix))

    def module_names(self, kinds: Sequence[str]) -> list[str]:
        """Return dotted module names, as PEFT's `target_modules` takes them.

        Arguments:
            kinds: canonical projection names, `"embed"` and `"head"`. Where q, k and v are
                fused, each of them stands for the fused module, which is named once.

        Raises:
            UsageError: the family has no such kind.
        """
        known = (*self.projection_names, EMBED, HEAD)
        for kind in kinds:
            if kind not in known:
                raise unknown_name(f"projection of family '{self.family}'", kind, known)
        inside = [self.layout.projections[k] for k in kinds if k not in (EMBED, HEAD)]
        names = [f"{self._prefix(b)}.{path}" for b in range(self.n_blocks) for path in inside]
        names += [self.layout.embedding] * (EMBED in kinds) + [self.layout.head] * (HEAD in kinds)
        return list(dict.fromkeys(names))

    def _projection(self, name: str, block: int, module: str) -> Projection:
        fused = self.layout.fusion is not None and name in ("q", "k", "v")
        bias = getattr(self._module(module), "bias", None)
        return Projection(
            name=name,
            block=block,
            parameter=f"{module}.weight",
            module=module,
            transposed=self.layout.transposed,
            rows=self._fused_rows(name) if fused else None,
            bias=None if bias is None else f"{module}.bias",
        )

    def _fused_rows(self, name: str) -> slice | Tensor:
        assert self.layout.fusion is not None
        keys = self.n_kv_heads * self.head_dim
        sizes = (self.n_heads * self.head_dim, keys, keys)
        return fused_rows(name, self.layout.fusion, sizes, self.head_dim)

    def _prefix(self, block: int) -> str:
        if not 0 <= block < self.n_blocks:
            raise UsageError(f"block {block} is outside 0..{self.n_blocks - 1}.")
        return f"{self.layout.blocks}.{block}"

    def _module(self, path: str) -> nn.Module:
        return _submodule(self.model, self.layout, path)

    def _check(self) -> None:
        """Refuse variants whose residual stream does not meet the LM head directly."""
        _submodule(self.model, self.layout, self.layout.final_norm)
        for part, size in (
            ("embedding", self.embedding.weight.shape[1]),
            ("LM head", self.head_weight.shape[1]),
        ):
            if size != self.width:
                raise _variant(
                    self.layout,
                    f"projects between an {part} of width {size} and a residual stream of width "
                    f"{self.width}",
                )


def _submodule(model: nn.Module, layout: Family, path: str) -> nn.Module:
    module: Any = model
    for part in path.split("."):
        module = getattr(module, part, None)
    if module is None:
        raise _variant(
            layout, f"has no module '{path}' (a variant, or an adapter that is still attached)"
        )
    return cast(nn.Module, module)


def _variant(layout: Family, what: str) -> PairIncompatibleError:
    return PairIncompatibleError(
        f"this model of family '{layout.name}' {what}; pktkit does not describe that variant. "
        "docs/families.md tells how to add a family."
    )
