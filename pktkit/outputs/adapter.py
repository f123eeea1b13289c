"""The change of a target as a PEFT adapter: LoRA for matrices, whole copies of small modules.

All matrices get one rank, the largest that any needs, and the factor 1 (`lora_alpha = r`): that
form every reader of LoRA adapters understands.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from pktkit.checkpoints.adapter import WEIGHTS
from pktkit.checkpoints.library import quiet
from pktkit.checkpoints.verifying import Agreement, agreement, logits, prompt_ids
from pktkit.errors import UsageError
from pktkit.outputs.low_rank import Factors, factorise

if TYPE_CHECKING:
    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel

INSTEAD = "Type --save delta to keep the change exactly, or --save checkpoint."


@attrs.frozen(eq=False)
class LowRankChange:
    """What an adapter holds.

    Arguments:
        factors: by name of the module whose weight they change.
        biases: by module, what is added to its bias, fp32.
        whole: modules that are stored as they are.
        rank: of every matrix.
    """

    factors: Mapping[str, Factors]
    biases: Mapping[str, Tensor]
    whole: tuple[str, ...]
    rank: int

    @property
    def exact(self) -> bool:
        """Whether nothing but rounding is left out."""
        return all(f.exact for f in self.factors.values())

    @property
    def error(self) -> float:
        """Relative Frobenius error over all matrices."""
        total = sum(f.total for f in self.factors.values())
        return math.sqrt(sum(f.lost for f in self.factors.values()) / total) if total else 0.0


def write_adapter(
    target: LoadedModel,
    journal: Journal,
    directory: Path,
    *,
    rank: int | None,
    base: tuple[str, str],
) -> tuple[dict[str, Any], Agreement]:
    """Write what the journal holds as an adapter, and verify it as peft reads it.

    Arguments:
        target: as it is after the change; it is put back for a while and comes out as it was.
        directory: exists.
        rank: largest rank; None for the least one that holds the change exactly.
        base: what peft finds the base by: name or path, and revision (may be empty).

    Returns:
        Figures for the record; and the agreement of base and adapter with the target in memory
        where the adapter is exact, else with the same truncated change merged.

    Raises:
        UsageError: the change does not fit an adapter, or the one written does not say the same.
    """
    change = factorised(target, journal, rank)
    ids = prompt_ids(target.model, target.tokenizer)
    merged = logits(target.model, ids)
    _write(target, change, directory, base)
    with journal.undone() as after:
        plain = logits(target.model, ids)
        with _attached(target.model, directory, change.whole) as attached:
            adapted = logits(attached, ids)
        _apply(target, change, after)
        expected = merged if change.exact else logits(target.model, ids)
    found = agreement(expected, adapted, target.model.dtype)
    if not found.holds:
        raise UsageError(f"saving failed: peft makes something else of the adapter, {found}.")
    moved = float((merged - plain).norm())
    figures = {
        "rank": change.rank,
        "matrices": len(change.factors),
        "biases": len(change.biases),
        "whole_modules": list(change.whole),
        "numbers": _numbers(target.model, change),
        "exact": change.exact,
        "relative_error": change.error,
        "logit_error": float((merged - adapted).norm()) / moved if moved else 0.0,
    }
    return figures, found


def factorised(target: LoadedModel, journal: Journal, rank: int | None) -> LowRankChange:
    """Write the change that a journal holds as matrices of low rank and whole modules.

    Arguments:
        rank: largest rank; None takes the least that is exact, and refuses an adapter that would
            be larger than the change it holds.

    Raises:
        UsageError: a change that no adapter holds, or not with this rank.
    """
    matrices, biased, whole = _sorted_changes(target, journal)
    if not matrices:
        raise UsageError(
            "the strategy changed no matrix that LoRA can hold (changed: "
            f"{', '.join(journal.changed()[:3]) or 'nothing'}), so there is no adapter. {INSTEAD}"
        )
    parameters = dict(target.model.named_parameters())
    sizes = {m: _canonical(target, m, parameters[f"{m}.weight"]).shape for m in matrices}
    numbers = sum(math.prod(shape) for shape in sizes.values())
    limit = rank or max(1, numbers // sum(map(sum, sizes.values())))
    factors = {}
    for module in matrices:
        name = f"{module}.weight"
        found = factorise(
            _canonical(target, module, journal.before(name)),
            _canonical(target, module, parameters[name].detach()),
            limit=limit,
        )
        if rank is None and not found.exact:
            raise UsageError(_full_rank(name, found, limit, parameters[name]))
        factors[module] = found
    biases = {
        module: (
            parameters[f"{module}.bias"].detach().float() - journal.before(f"{module}.bias").float()
        )
        for module in biased
    }
    return LowRankChange(factors, biases, whole, max(1, *(f.rank for f in factors.values())))


def _full_rank(name: str, found: Factors, limit: int, parameter: Tensor) -> str:
    """Word the refusal of a change that no small adapter holds."""
    error = math.sqrt(found.lost / found.total)
    half = parameter.element_size() < 4
    rounded = " Rounding to 16 bits alone can do that; --dtype float32 avoids it." if half else ""
    return (
        f"the change of '{name}' {tuple(parameter.shape)} is not of low rank: with rank {limit}, "
        f"where an adapter is as large as the change itself, {100 * error:.2g} % of it (Frobenius) "
        f"would be lost.{rounded} Type --rank N for an adapter that cuts it off at rank N and says "
        f"what is lost. {INSTEAD}"
    )


def _sorted_changes(
    target: LoadedModel, journal: Journal
) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Return modules whose matrix changed, those whose bias LoRA changes too, and whole ones.

    peft gives either all LoRA layers a bias or none. Where not all modules have one, those whose
    bias changed are stored whole, as norms are.

    Raises:
        UsageError: tied embeddings changed.
    """
    model, changed = target.model, journal.changed()
    if target.anatomy.tied and f"{target.anatomy.layout.embedding}.weight" in changed:
        raise UsageError(
            f"the strategy changed the embedding of '{target.name}', which is tied to its LM head; "
            f"an adapter on one of them leaves the other as it was. {INSTEAD}"
        )
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in changed))
    matrices = [m for m in modules if f"{m}.weight" in changed and _has_lora(model, m)]
    biased = [m for m in modules if f"{m}.bias" in changed and _is_linear(model, m)]
    wrapped = list(dict.fromkeys([*matrices, *biased]))
    if biased and all(_has_bias(model, m) for m in wrapped):
        matrices = wrapped
    else:
        matrices = [m for m in matrices if m not in biased]
        biased = []
    return matrices, biased, tuple(m for m in modules if m not in matrices)


def _write(
    target: LoadedModel, change: LowRankChange, directory: Path, base: tuple[str, str]
) -> None:
    from peft import LoraConfig
    from safetensors.torch import save_file

    name, revision = base
    config = LoraConfig(
        base_model_name_or_path=name,
        revision=revision or None,
        task_type="CAUSAL_LM",
        inference_mode=True,
        r=change.rank,
        lora_alpha=change.rank,
        target_modules=list(change.factors),
        modules_to_save=list(change.whole) or None,
        lora_bias=bool(change.biases),
        fan_in_fan_out=target.anatomy.layout.transposed,
    )
    config.save_pretrained(str(directory))
    tensors: dict[str, Tensor] = {}
    for module, factors in change.factors.items():
        prefix = f"base_model.model.{module}"
        a, b = _padded(factors, change.rank)
        if _is_linear(target.model, module):
            tensors |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
        else:
            tensors |= {f"{prefix}.lora_embedding_A": a, f"{prefix}.lora_embedding_B": b}
        if change.biases:
            absent = torch.zeros(b.shape[0])
            tensors[f"{prefix}.lora_B.bias"] = change.biases.get(module, absent).cpu()
    for module in change.whole:
        for name, value in target.model.get_submodule(module).state_dict().items():
            tensors[f"base_model.model.{module}.{name}"] = value.detach().cpu()
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, directory / WEIGHTS, metadata={"format": "pt"})


def _padded(factors: Factors, rank: int) -> tuple[Tensor, Tensor]:
    """Return A and B with as many rows and columns as the adapter's rank, on the CPU."""
    missing = rank - factors.rank
    a = nn.functional.pad(factors.a.cpu(), (0, 0, 0, missing))
    return a, nn.functional.pad(factors.b.cpu(), (0, missing))


def _apply(target: LoadedModel, change: LowRankChange, after: Mapping[str, Tensor]) -> None:
    """Merge the change into the base that the parameters hold."""
    parameters = dict(target.model.named_parameters())
    with torch.no_grad():
        for module, factors in change.factors.items():
            weight = parameters[f"{module}.weight"]
            canonical = _canonical(target, module, weight)
            canonical.copy_(canonical.float() + factors.b @ factors.a)
            if module in change.biases:
                bias = parameters[f"{module}.bias"]
                bias.copy_(bias.float() + change.biases[module])
        for name, value in after.items():
            if name.rpartition(".")[0] in change.whole:
                parameters[name].copy_(value)


@contextlib.contextmanager
def _attached(model: Any, directory: Path, whole: tuple[str, ...]) -> Iterator[Any]:
    """Put an adapter on a model as a user does, and take it off again without a trace."""
    from peft import PeftModel

    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    originals = {name: model.get_submodule(name) for name in whole}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attached = PeftModel.from_pretrained(model, str(directory)).eval()
    try:
        yield attached
    finally:
        attached.unload()
        for name, module in originals.items():
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module)
        for attribute in ("peft_config", "_hf_peft_config_loaded"):
            vars(model).pop(attribute, None)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])


def _canonical(target: LoadedModel, module: str, weight: Tensor) -> Tensor:
    """Return a weight in `[out, in]` orientation; an embedding maps tokens to states."""
    straight = isinstance(target.model.get_submodule(module), nn.Linear)
    return weight if straight else weight.T


def _is_linear(model: nn.Module, module: str) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(model.get_submodule(module), (nn.Linear, Conv1D))


def _has_lora(model: nn.Module, module: str) -> bool:
    """Whether peft's LoRA computes what the module does; embeddings of another kind scale."""
    return _is_linear(model, module) or type(model.get_submodule(module)) is nn.Embedding


def _has_bias(model: nn.Module, module: str) -> bool:
    return getattr(model.get_submodule(module), "bias", None) is not None


def _numbers(model: nn.Module, change: LowRankChange) -> int:
    """Return how many numbers the adapter holds."""
    factors = change.factors.values()
    count: int = sum(change.rank * (f.b.shape[0] + f.a.shape[1]) for f in factors)
    if change.biases:
        count += sum(f.b.shape[0] for f in factors)
    for name in change.whole:
        count += sum(p.numel() for p in model.get_submodule(name).parameters())
    return count
