"""Whether what was written is what is in memory: weights bit for bit, then one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import structlog
import torch
from torch import Tensor

from pktkit.checkpoints.library import is_tied, quiet, short_reason
from pktkit.errors import UsageError
from pktkit.memory import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = structlog.get_logger(__name__)

PROMPT = "The 12 quick foxes\n\tcount: 3 + 4 = 7; naïve «café» → def f(x): return x**2"
"""What both models read."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Largest difference of logits, as a part of the largest logit, that is put down to rounding."""


@attrs.frozen
class Agreement:
    """How the logits of two models agree on `PROMPT`.

    Arguments:
        difference: the largest of any logit; None where memory did not hold a second model.
        scale: the largest logit.
        tolerance: how much of the scale counts as rounding.
    """

    difference: float | None
    scale: float = 0.0
    tolerance: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether there is no difference but rounding."""
        return self.difference is None or self.difference <= self.tolerance * self.scale

    def __str__(self) -> str:
        if self.difference is None:
            return "logits not compared, no memory for a second model"
        if self.difference == 0:
            return "logits equal bit for bit"
        return f"logits differ by {self.difference:.1e} at most (largest logit {self.scale:.1f})"


def prompt_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return tokens of `PROMPT` that the model knows, `[1, at most 64]`, never none."""
    rows = int(model.get_output_embeddings().weight.shape[0])
    ids = [token for token in tokenizer(PROMPT)["input_ids"] if token < rows] or [0]
    return torch.tensor([ids[:64]])


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    """Return what a model says to tokens, fp32 on the CPU, `[1, tokens, vocab_rows]`."""
    device = model.get_input_embeddings().weight.device
    found: Tensor = model(input_ids=ids.to(device), use_cache=False).logits
    return found.float().cpu()


def agreement(expected: Tensor, found: Tensor, dtype: torch.dtype) -> Agreement:
    """Compare two sets of logits of models in `dtype`; values that are not finite never agree."""
    difference = float((expected - found).abs().max()) if expected.shape == found.shape else None
    if difference is None or difference != difference:
        difference = float("inf")
    return Agreement(difference, float(expected.abs().max()), TOLERANCE.get(dtype, 1e-4))


def verify_loads(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path
) -> Agreement:
    """Check that plain transformers makes the same model and tokenizer of a directory.

    Keys are held against the configuration, tied weights must still be tied, the tokenizer must
    have the same tokens and template and encode alike, and the logits must be the same.

    Raises:
        UsageError: something is not the same.
    """
    _verify_tokenizer(tokenizer, directory)
    ids = prompt_ids(model, tokenizer)
    try:
        loaded = _loaded_strictly(model, directory)
        found = agreement(logits(model, ids), logits(loaded, ids), model.dtype)
    except Exception as error:
        if is_out_of_memory(error):
            return Agreement(None)
        raise
    if is_tied(loaded) != is_tied(model):
        raise UsageError(
            "saving failed: embedding and LM head are "
            f"{'tied' if is_tied(model) else 'not tied'} in memory, but not so on disk."
        )
    if _rotary(loaded) != _rotary(model):
        raise UsageError("saving failed: the settings of rotary positions do not read back.")
    if _generation(loaded) != _generation(model):
        raise UsageError("saving failed: the generation configuration does not read back.")
    if not found.holds:
        raise UsageError(f"saving failed: what was written says something else, {found}.")
    return found


def verify_saved(model: PreTrainedModel, directory: Path) -> None:
    """Check that the safetensors in `directory` hold the model's weights bit for bit.

    Tied names may be stored once. If names differ, because transformers renames some on writing,
    the directory is loaded and compared as a model.

    Raises:
        UsageError: a weight is missing or differs.
    """
    state = model.state_dict()
    seen: set[str] = set()
    strangers = False
    for name, stored in _stored_tensors(directory):
        if name not in state:
            strangers = True
            continue
        _require_equal(name, state[name], stored)
        seen.add(name)
    covered = {_place(state[name]) for name in seen}
    lost = [name for name, value in state.items() if _place(value) not in covered]
    if strangers or lost or is_tied(model) != bool(model.config.tie_word_embeddings):
        _verify_by_loading(model, directory)


def _verify_by_loading(model: PreTrainedModel, directory: Path) -> None:
    saved = _loaded_strictly(model, directory).state_dict()
    for name, value in model.state_dict().items():
        if name not in saved:
            raise UsageError(f"saving failed: '{name}' was not written.")
        _require_equal(name, value, saved[name])


def _loaded_strictly(model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """Load a directory where the model is, and refuse keys that do not fit the configuration."""
    from transformers import AutoModelForCausalLM

    library = type(model).__module__.startswith("transformers.")
    loader: Any = AutoModelForCausalLM if library else type(model)
    with quiet():
        loaded, info = loader.from_pretrained(
            directory,
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            attn_implementation=model.config._attn_implementation,
        )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        kind, keys = next(iter(wrong.items()))
        raise UsageError(
            f"saving failed: weights and config.json do not fit, {kind.replace('_', ' ')}: "
            f"{', '.join(keys[:3])}."
        )
    device = model.get_input_embeddings().weight.device
    placed: PreTrainedModel = loaded.eval().to(device)
    return placed


def _verify_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    from transformers import AutoTokenizer

    with quiet():
        try:
            loaded = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except Exception as error:
            raise UsageError(
                f"saving failed: the tokenizer does not read back: {short_reason(error)}."
            ) from error
    facts: dict[str, Callable[[Any], Any]] = {
        "tokens do": lambda t: t.get_vocab(),
        "special tokens do": lambda t: {k: str(v) for k, v in t.special_tokens_map.items()},
        "chat template does": lambda t: t.chat_template,
    }
    if type(loaded) is type(tokenizer):
        # one built by hand may become its architecture's own class, which splits text its own way
        facts["encoding of a sentence does"] = _encoding
    elif _encoding(loaded) != _encoding(tokenizer):
        log.warning(
            f"AutoTokenizer takes {type(loaded).__name__} for this architecture, which splits "
            "text differently; outside pktkit use PreTrainedTokenizerFast.from_pretrained"
        )
    for what, told in facts.items():
        if told(tokenizer) != told(loaded):
            raise UsageError(f"saving failed: the tokenizer's {what} not read back the same.")


def _encoding(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(PROMPT)["input_ids"])


def _rotary(model: PreTrainedModel) -> dict[str, Any]:
    """Return how positions are rotated, whose scaling shows on long texts only."""
    found = getattr(model.config, "rope_parameters", None) or {}
    return {name: value for name, value in found.items() if name != "type"}


def _generation(model: PreTrainedModel) -> dict[str, Any]:
    """Return a generation configuration without what the library adds on writing."""
    config: Any = model.generation_config
    kept: dict[str, Any] = config.to_diff_dict()
    return {
        k: v for k, v in kept.items() if k not in ("transformers_version", "_from_model_config")
    }


def _stored_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for shard in sorted(directory.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                yield name, weights.get_tensor(name)


def _place(value: Tensor) -> tuple[int, torch.Size, torch.device]:
    return value.data_ptr(), value.shape, value.device


def _require_equal(name: str, expected: Tensor, stored: Tensor) -> None:
    same = stored.dtype == expected.dtype and stored.shape == expected.shape
    if not same or not torch.equal(_bits(stored), _bits(expected.detach().cpu())):
        raise UsageError(f"saving failed: '{name}' does not read back bit for bit.")


def _bits(value: Tensor) -> Tensor:
    return value.contiguous().reshape(-1).view(torch.uint8)
