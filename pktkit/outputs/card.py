"""The model card: what a directory holds, where it comes from, what it scores, what it is not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

CHECKPOINT, ADAPTER, DELTA = "checkpoint", "adapter", "delta"
Record = Mapping[str, Any]


def model_card(record: Record) -> str:
    """Return `README.md` for a record as `transfer.json` holds it; see `pktkit.outputs.saving`."""
    parts = [
        _front_matter(record),
        f"# {record['target']} after {record['strategy']['name']}",
        _summary(record),
        "## How to use it",
        _usage(record),
        "## Recipe",
        _recipe(record),
        "## Scores",
        _scores(record),
        "## Lineage",
        _lineage(record),
        "## Limitations",
        _limitations(record),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _front_matter(record: Record) -> str:
    import yaml

    kind, target = record["saved"]["kind"], record["models"]["target"]
    library = {CHECKPOINT: "transformers", ADAPTER: "peft", DELTA: "pktkit"}[kind]
    content: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    if target["license"]:
        content["license"] = target["license"]
    if target["repository"]:
        content["base_model"] = target["repository"]
        content["base_model_relation"] = "adapter" if kind == ADAPTER else "finetune"
    content["tags"] = ["pktkit", "knowledge-transfer", record["strategy"]["name"]]
    if kind == ADAPTER:
        content["tags"].append("lora")
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---"


def _summary(record: Record) -> str:
    what = {
        CHECKPOINT: "a complete checkpoint: weights, tokenizer, generation configuration",
        ADAPTER: "a PEFT adapter (LoRA) for the target, without the target itself",
        DELTA: "a delta: what changed in the target, without the target itself",
    }[record["saved"]["kind"]]
    return (
        f"The language model {_model(record, 'target')} with knowledge moved into it from "
        f"{_model(record, 'source')}, by pktkit "
        f"{record['software']['pktkit']} with the strategy {_code(record['strategy']['name'])} on "
        f"the task {_code(record['task'])}. This directory holds {what}."
    )


def _usage(record: Record) -> str:
    target = record["models"]["target"]
    base = target["repository"] or f"PATH/TO/{target['name']}"
    revision = f', revision="{target["revision"]}"' if target["repository"] else ""
    dtype = "auto" if target["dtype"] == "auto" else target["dtype"]
    if record["saved"]["kind"] == DELTA:
        at = f"@{target['revision']}" if target["repository"] and target["revision"] else ""
        return (
            "Restores the model bit for bit as a checkpoint, and refuses any other base:\n\n"
            + _fenced(f"pktkit apply THIS_DIRECTORY {base}{at} --out restored", "sh")
        )
    if record["saved"]["kind"] == ADAPTER:
        code = (
            "from peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base}"{revision}, dtype="{dtype}")\n'
            'model = PeftModel.from_pretrained(base, "THIS_DIRECTORY")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{base}"{revision})'
        )
        if "+" in record["target"]:
            code = "# the base is itself a model with an adapter: merge that one first\n" + code
        return _fenced(code, "python")
    return _fenced(
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("THIS_DIRECTORY", dtype="auto")\n'
        'tokenizer = AutoTokenizer.from_pretrained("THIS_DIRECTORY")',
        "python",
    )


def _recipe(record: Record) -> str:
    source, target = (
        record["models"][side]["repository"] or side.upper() for side in ("source", "target")
    )
    command = (
        f"pktkit transfer --strategy recipe.yaml --source {source} --target {target} "
        f"--task {record['task']} --seed {record['seed']} "
        f"--dtype {record['models']['target']['dtype']} --out NEW_DIRECTORY"
    )
    return (
        "In `recipe.yaml` beside this file, every figure of the budget written out:\n\n"
        f"{_fenced(record['recipe'], 'yaml')}\n\n{_fenced(command, 'sh')}"
    )


def _scores(record: Record) -> str:
    scores = record.get("scores") or {}
    parts = []
    own = scores.get("own")
    if own:
        parts.append(
            f"This very model, split `{own['split']}` of the task, {own['items']} items"
            + (f", {own['metric']}" if own["metric"] else "")
            + ", in percent:\n\n"
            + _table(
                ["target before", "after", "difference in points [95 %, paired over items]"],
                [
                    [
                        f"{own['before']:.1f}",
                        f"{own['after']:.1f}",
                        f"{own['difference']:+.1f} [{own['low']:+.1f}, {own['high']:+.1f}]",
                    ]
                ],
            )
        )
    if scores.get("comparison"):
        rows = [
            [
                _code(row["strategy"]),
                _number(row["mean"], ".1f"),
                str(row["seeds"]),
                _difference(row),
                _number(row["adjusted_p"], ".3f"),
            ]
            for row in scores["comparison"]
        ]
        parts.append(
            "A comparison with controls by `pktkit compare`; its models were trained anew for "
            "each seed, and are not this one:\n\n"
            + _table(["strategy", "score %", "seeds", "against target, points", "p (Holm)"], rows)
        )
    return "\n\n".join(parts) or "None were taken when this was written."


def _lineage(record: Record) -> str:
    rows = []
    for side in ("source", "target"):
        facts = record["models"][side]
        rows.append(
            [
                side,
                _model(record, side),
                _code(facts["revision"]),
                _code(facts["sha256"][:16]),
                facts["dtype"],
                facts["license"] or "not stated",
            ]
        )
    saved, verified = record["saved"], record["verified"]
    changed = len(record["changed_parameters"])
    lines = [
        _table(["", "model", "revision", "weights SHA-256", "precision", "license"], rows),
        f"- task {_code(record['task'])}, seed {record['seed']}, "
        f"{record['summary']['steps']} optimiser steps",
        f"- layers (source→target): {_code(record['layer_map'])}",
        f"- {changed} parameters of the target changed",
        f"- the result's weights: SHA-256 {_code(record['result_sha256'][:16])}",
        f"- verified after writing: {verified}",
        "- software: " + ", ".join(f"{k} {v}" for k, v in record["software"].items()),
        "- everything else: `transfer.json`",
    ]
    if saved["kind"] == ADAPTER:
        lines.insert(4, f"- {adapter_sentence(saved)}")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def adapter_sentence(saved: Record) -> str:
    """Return what an adapter holds and what it leaves out."""
    held = (
        f"rank {saved['rank']} on {saved['matrices']} matrices, {saved['biases']} biases, "
        f"{len(saved['whole_modules'])} modules whole"
    )
    if saved["exact"]:
        return f"{held}; the change is held exactly, up to rounding"
    return (
        f"{held}; cut off: {saved['relative_error']:.1%} of the change of the weights (relative "
        f"Frobenius error) and {saved['logit_error']:.1%} of the change of the logits are missing"
    )


def _limitations(record: Record) -> str:
    scores = record.get("scores") or {}
    lines = [
        "It was trained on one task; other abilities of the target were not measured here, and "
        "may have been lost.",
        "It has the biases and faults of both models, and the licenses of both apply.",
    ]
    if not scores.get("comparison"):
        lines.insert(
            0,
            "One run with one seed, without controls: it is not shown that the source's knowledge, "
            "rather than mere training, made a difference. `pktkit compare` asks that question.",
        )
    if record["saved"]["kind"] == ADAPTER and not record["saved"]["exact"]:
        lines.append("The adapter is a truncation; it is not the model that was trained.")
    if not record["models"]["target"]["license"]:
        lines.append("The target's files state no license; find out before you share this.")
    return "\n".join(f"- {line}" for line in lines)


def _model(record: Record, side: str) -> str:
    facts = record["models"][side]
    return _code(facts["repository"] or facts["name"])


def _difference(row: Record) -> str:
    if row["points"] is None:
        return "–"
    return f"{row['points']:+.1f} [{_number(row['low'], '+.1f')}, {_number(row['high'], '+.1f')}]"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _code(text: str) -> str:
    """Return text as code that stays on its line and in its cell; a dash for none."""
    plain = re.sub(r"[\s|`]+", " ", text).strip()
    return f"`{plain}`" if plain else "–"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fenced(text: str, language: str) -> str:
    """Return a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
