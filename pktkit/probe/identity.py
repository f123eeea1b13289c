"""What a model and a tokenizer are, by content: names, directories and dates do not matter."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from pktkit.pair import LoadedModel, weights_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CHUNK = 1 << 26


def model_content(model: LoadedModel) -> dict[str, str]:
    """Return what determines a model's outputs: hashes of weights, other state, configuration."""
    return {
        "weights": weights_hash(model.model),
        "buffers": _buffers_hash(model.model),
        "config": config_hash(model.model.config),
    }


def config_hash(config: Any) -> str:
    """Return a hash of a configuration, without the place it came from."""
    document = config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        document.pop(name, None)
    return _hash(document)


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what turns text into ids and back: all rules, not the vocabulary alone."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    else:
        rules = json.loads(backend.to_str())
        for name in ("padding", "truncation"):  # set by whoever encoded last
            rules.pop(name, None)
    settings = ("special_tokens_map", "chat_template", "clean_up_tokenization_spaces")
    return _hash([rules, {name: getattr(tokenizer, name, None) for name in settings}])


def _buffers_hash(model: PreTrainedModel) -> str:
    """Hash the state that is no parameter, as the scales of quantised weights are."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    # what is not saved, such as rotary frequencies, follows from the configuration
    others = {n: value for n, value in model.state_dict().items() if n not in parameters}
    digest = hashlib.sha256()
    for name, value in sorted(others.items()):
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name}|{value!r}|".encode())
            continue
        digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}|".encode())
        raw = value.detach().contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, raw.numel(), _CHUNK):
            digest.update(raw[start : start + _CHUNK].cpu().numpy().tobytes())
    return digest.hexdigest()


def _hash(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
