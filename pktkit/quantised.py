"""Models whose weights are kept in 8 or 4 bits by bitsandbytes."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch

from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.offloaded import held

if TYPE_CHECKING:
    from torch import Tensor, nn

QUANTS = ("none", "8bit", "4bit")


def quantisation(quant: str, dtype: str) -> Any:
    """Return how transformers is told to quantise while it loads.

    8 bits are LLM.int8 (arXiv 2208.07339), 4 bits NF4 with scales quantised again (2305.14314).
    The LM head stays as it is.

    Arguments:
        quant: `"8bit"` or `"4bit"`.
        dtype: what 4-bit weights are unpacked to for computing; `"auto"` is bfloat16.

    Raises:
        UsageError: bitsandbytes is not installed, or does not run here.
    """
    if quant not in QUANTS[1:]:
        raise UsageError(f"unknown quantisation '{quant}'. Known: {', '.join(QUANTS)}.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            f"a source in {quant} needs the package bitsandbytes. Type: pip install "
            "'pktkit[quant]', or leave out --source-quant."
        )
    from transformers import BitsAndBytesConfig

    if quant == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else getattr(torch, dtype),
    )


def keep_packing(model: nn.Module) -> None:
    """Keep 4-bit weights in the layout they were loaded in.

    On processors with AVX-512 bfloat16, bitsandbytes lays them out anew, in place, when a layer is
    first called: they would be other weights by every hash, and unpack to nonsense.
    """
    for each in model.modules():
        module: Any = each
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantised(model: nn.Module) -> bool:
    """Return whether some weights of a model are packed and get no gradient."""
    return any(not parameter.dtype.is_floating_point for parameter in model.parameters())


def weight_of(model: nn.Module, name: str) -> Tensor:
    """Return a parameter as numbers, in its own layout: itself, or what its packed bits stand for.

    Raises:
        AttributeError: there is no such parameter.
        UsageError: it is packed in a way that is not known here.
    """
    parameter = held(model, name)
    if parameter.dtype.is_floating_point:
        return parameter
    state: Any = getattr(model.get_parameter(name), "quant_state", None)
    if state is not None:
        import bitsandbytes.functional as bits

        value = bits.dequantize_4bit(parameter.data, state)
    else:
        found = scales_of(model, name)
        if not found:
            raise UsageError(f"'{name}' is stored in a quantised format that pktkit cannot unpack.")
        value = parameter.float() * (found[0].float() / 127)[:, None]
    module: Any = model.get_submodule(name.rpartition(".")[0])
    # weights that lie [in, out] are turned before they are packed
    turned = getattr(getattr(module, "source_cls", None), "__name__", "") == "Conv1D"
    return value.T if turned else value


def scales_of(model: nn.Module, name: str) -> list[Tensor]:
    """Return what a packed weight needs beside its bits to mean something; none for a plain one.

    8-bit layers move their scales from the weight to the module when they are first called.
    """
    parameter = model.get_parameter(name)
    if parameter.dtype.is_floating_point:
        return []
    state: Any = getattr(parameter, "quant_state", None)
    if state is not None:
        nested = getattr(state, "state2", None)
        parts = [state.absmax, None if nested is None else nested.absmax, state.offset]
        return [part for part in parts if part is not None]
    module: Any = model.get_submodule(name.rpartition(".")[0])
    rows: Any = getattr(parameter, "SCB", None)
    if rows is None:
        rows = getattr(getattr(module, "state", None), "SCB", None)
    return [] if rows is None else [rows]


def require_plain(model: nn.Module, who: str) -> None:
    """Refuse a quantised model where the weights themselves are needed, or their gradients.

    Raises:
        PairIncompatibleError: some weights are packed.
    """
    if is_quantised(model):
        raise packed(who)


def packed(who: str) -> PairIncompatibleError:
    """Word why a quantised source will not do."""
    return PairIncompatibleError(
        f"{who} needs the source's weights in full precision, but they are packed in 8 or 4 "
        "bits. Leave out --source-quant, or choose a strategy that reads states only.",
        needs="a source without --source-quant",
    )
