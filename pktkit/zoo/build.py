"""Train the default pair from scratch and write it as two model directories."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pktkit.tasks import arith, code, compose, edits, facts
from pktkit.tasks.base import Task
from pktkit.tasks.splitting import Example
from pktkit.zoo.scoring import accuracy
from pktkit.zoo.tokenizer import MAX_LENGTH, build_tokenizer
from pktkit.zoo.training import Course, Lesson, Progress, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASKS: tuple[Callable[[], Task], ...] = (
    compose.task,
    facts.task,
    arith.task,
    code.task,
    edits.task,
)


@attrs.frozen
class Shape:
    """The size of a Llama model."""

    width: int
    blocks: int
    heads: int
    key_value_heads: int
    hidden: int


SOURCE = Shape(width=96, blocks=6, heads=6, key_value_heads=3, hidden=192)
TARGET = Shape(width=64, blocks=3, heads=4, key_value_heads=2, hidden=128)


def source_course() -> Course:
    """Return what the source learns: everything that is in neither `dev` nor `test`."""
    nested = tuple(compose.pretraining())
    return Course(
        lessons=(
            Lesson("compose", nested, steps=2600, batch_size=128),
            Lesson("compose-single", tuple(compose.primitives()), steps=100, batch_size=128),
            Lesson("facts", tuple(facts.pretraining(facts.KNOWN_TO_SOURCE)), 700, 64),
            Lesson("arith", tuple(arith.pretraining()), 1350, 48),
            Lesson("code", tuple(code.pretraining()), 650, 48),
            Lesson("edits", tuple(edits.pretraining()), 2000, 64),
        ),
        learning_rate=2.5e-3,
        seed=1,
    )


def target_course() -> Course:
    """Return what the target learns: single steps of each task, and a few facts."""
    return Course(
        lessons=(
            Lesson("compose", tuple(compose.primitives()), 700, 64),
            Lesson("facts", tuple(facts.pretraining(facts.KNOWN_TO_TARGET)), 400, 64),
            Lesson("arith", tuple(arith.primitives()), 700, 48),
            Lesson("code", tuple(code.primitives()), 300, 48),
            Lesson("edits", tuple(edits.primitives()), 600, 64),
        ),
        learning_rate=3e-3,
        seed=2,
    )


def build(out_dir: Path, *, progress: Progress | None = None) -> None:
    """Train both models and write `source/`, `target/` and `provenance.json` into `out_dir`."""
    started = time.monotonic()
    say = progress or (lambda message: None)
    tokenizer = build_tokenizer()
    models = {}
    for name, shape, course in (
        ("source", SOURCE, source_course()),
        ("target", TARGET, target_course()),
    ):
        models[name] = _make(out_dir / name, tokenizer, shape, course, say)
        say(f"{name}: dev {models[name]['scores']['dev']}")
    text = json.dumps(_record(models, round(time.monotonic() - started)), indent=2) + "\n"
    (out_dir / "provenance.json").write_text(text, encoding="utf-8")


def data_sha256() -> dict[str, str]:
    """Return hashes of the items of every task and of all that either model learns from."""
    hashes = {}
    for make in TASKS:
        task = make()
        rows = {split: [item.to_row() for item in items] for split, items in task.splits.items()}
        hashes[task.name] = _sha256(rows)
    for name, course in (("source", source_course()), ("target", target_course())):
        hashes[f"{name}-pretraining"] = _sha256(
            {lesson.name: _pairs(lesson.examples) for lesson in course.lessons}
        )
    return hashes


def _record(models: dict[str, Any], seconds: int) -> dict[str, Any]:
    return {
        "recipe": "pktkit.zoo.build: trained in float32, stored in bfloat16, scored as stored",
        "source_learns": "nested, two-step and two-part tasks, never a dev or test computation; "
        f"{facts.KNOWN_TO_SOURCE:.0%} of the facts, never as dev or test word them; "
        f"never the edits {', '.join(edits.WITHHELD)}, "
        f"nor code that tests after a change by {', '.join(code.WITHHELD)}",
        "target_learns": "single operations, steps, parts and edits; "
        f"{facts.KNOWN_TO_TARGET:.0%} of the facts",
        "data_sha256": data_sha256(),
        "models": models,
        "wall_seconds": seconds,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "tokenizers")},
        },
    }


def _make(
    directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    shape: Shape,
    course: Course,
    progress: Progress,
) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    started = time.monotonic()
    torch.manual_seed(course.seed)
    model = _model(shape, tokenizer)
    losses = train(model, tokenizer, course, lambda text: progress(f"{directory.name}: {text}"))
    model.bfloat16().save_pretrained(directory)
    # safetensors writes files that only their owner may read; these are shipped.
    (directory / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(directory)
    stored = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return {
        "shape": attrs.asdict(shape),
        "parameters": sum(parameter.numel() for parameter in stored.parameters()),
        "course": _course_record(course),
        "losses": losses,
        "scores": {split: _scores(stored, tokenizer, split) for split in ("dev", "test")},
        "wall_seconds": round(time.monotonic() - started),
    }


def _model(shape: Shape, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.width,
            intermediate_size=shape.hidden,
            num_hidden_layers=shape.blocks,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, split: str
) -> dict[str, float]:
    tasks = [make() for make in TASKS]
    return {task.name: accuracy(model, tokenizer, task, task.items(split)) for task in tasks}


def _course_record(course: Course) -> dict[str, Any]:
    return {
        "optimizer": "AdamW, betas 0.9 and 0.98, gradients clipped to norm 1",
        "schedule": f"{course.warmup} warm-up steps, then cosine to zero",
        "learning_rate": course.learning_rate,
        "weight_decay": course.weight_decay,
        "seed": course.seed,
        "loss": "cross-entropy of answer tokens and the end token",
        "lessons": {
            lesson.name: {
                "examples": len(lesson.examples),
                "steps": lesson.steps,
                "batch_size": lesson.batch_size,
            }
            for lesson in course.lessons
        },
    }


def _pairs(examples: tuple[Example, ...]) -> list[tuple[str, str]]:
    return [(example.prompt, example.answer) for example in examples]


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
