"""What a transfer leaves behind: checkpoints, adapters and deltas that say what memory said."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import safetensors.numpy as numpy_files
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tiny_transfers import same_bits, snapshot, tree

from pktkit.checkpoints.verifying import Agreement, agreement
from pktkit.cli import main
from pktkit.components import Choice, Strategy
from pktkit.errors import DoesNotFitError, UsageError
from pktkit.journal import Journal
from pktkit.outputs import Saving, apply_delta, save
from pktkit.outputs.card import model_card
from pktkit.outputs.delta import DIFFERENCE, VALUES, decode, encode
from pktkit.outputs.lineage import model_facts, software
from pktkit.outputs.low_rank import factorise
from pktkit.pair import LoadedModel, load_model, save_model, weights_hash
from pktkit.recipe import dump_recipe, parse_recipe
from pktkit.testing import tiny_loaded
from pktkit.zoo import pair_paths

STRATEGY = Strategy(
    name="given",
    summary="hostile ``` and | text",
    aligner=Choice("semantic", {"rank": 8}),
    injector=Choice("steer", {}),
    budget={"steps": 3},
)
RANK = 3

MODELS = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tied": True}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "qwen2": ("qwen2", {}),
    "gemma": ("gemma", {}),
    "opt": ("opt", {}),
    "phi": ("phi", {}),
}


@pytest.fixture(scope="module", params=MODELS)
def placed(request, tmp_path_factory):
    """A tiny target on disk, by family."""
    family, options = MODELS[request.param]
    handle = tiny_loaded(family, seed=3, **options)
    return str(save_model(handle, tmp_path_factory.mktemp("base") / "target"))


def logits(model):
    """Run a loaded, plain or adapted model on fixed tokens."""
    called = model.model if isinstance(model, LoadedModel) else model
    with torch.no_grad():
        return called(input_ids=torch.arange(3, 35).reshape(2, 16), use_cache=False).logits


def record_of(target):
    facts = model_facts(target)
    return {
        "strategy": {"name": STRATEGY.name},
        "recipe": dump_recipe(STRATEGY),
        "source": "source",
        "target": target.name,
        "models": {"source": facts, "target": facts},
        "task": "words",
        "seed": 0,
        "layer_map": "depth: 0→0",
        "changed_parameters": ["x"],
        "scores": {},
        "software": software(),
        "summary": {"steps": 3},
    }


def changed_matrices(target, journal, *, rank=RANK, seed=0):
    """Add a product of the given rank to every matrix inside the blocks; None fills it."""
    generator = torch.Generator().manual_seed(seed)
    names = {
        projection.parameter
        for block in range(target.anatomy.n_blocks)
        for projection in target.anatomy.projections(block).values()
    }
    for name in sorted(names):
        value = journal.parameter(name).detach().float()
        out, into = value.shape
        inner = rank or min(out, into)
        b, a = (torch.randn(s, generator=generator) for s in ((out, inner), (inner, into)))
        journal.write(name, value + 0.05 * b @ a)


def peft_model(place, directory):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    return PeftModel.from_pretrained(base, directory).eval()


def saved(target, directory, how, *, change=changed_matrices):
    record = record_of(target)
    with Journal(target) as journal:
        change(target, journal)
    return save(target, journal, directory, how, record)


def test_an_adapter_gives_the_merged_logits(placed, tmp_path):
    target = load_model(placed)
    shape = tree(target)
    record = saved(target, tmp_path / "adapter", Saving("adapter"))
    merged, now = logits(target), snapshot(target)
    assert record["saved"]["exact"] and record["saved"]["rank"] == RANK
    assert tree(target) == shape, "taken off again without a trace"
    attached = peft_model(placed, tmp_path / "adapter")
    torch.testing.assert_close(logits(attached), merged, rtol=1e-4, atol=1e-4)
    again = load_model(f"{placed}+{tmp_path / 'adapter'}")
    for name, value in again.model.named_parameters():
        torch.testing.assert_close(value, now[name], rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == str(placed)


def test_a_delta_restores_every_bit_and_refuses_another_base(placed, tmp_path):
    target = load_model(placed)

    def everything(target, journal):
        """Adjust, shrink, and rewrite."""
        changed_matrices(target, journal)
        for index, (name, value) in enumerate(list(target.model.named_parameters())):
            if index % 4 == 0:
                journal.write(name, value.detach() * -0.3 + 1e-3)

    saved(target, tmp_path / "delta", Saving("delta"), change=everything)
    now = snapshot(target)
    restored = load_model(placed)
    apply_delta(restored, tmp_path / "delta")
    assert same_bits(restored, now)
    with pytest.raises(UsageError, match=r"changed parameters have the same name and shape"):
        apply_delta(restored, tmp_path / "delta")
    assert same_bits(restored, now), "a refused base is left alone"


def test_a_checkpoint_loads_in_plain_transformers_and_says_the_same(placed, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = load_model(placed)
    target.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    target.tokenizer.add_tokens(["<mine>"])
    target.model.generation_config.max_new_tokens = 7
    saved(target, tmp_path / "out", Saving(max_shard_size="10KB"))
    shards = list((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert {p.stat().st_mode for p in shards} == {(tmp_path / "out" / "README.md").stat().st_mode}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(loaded), logits(target))
    assert loaded.generation_config.max_new_tokens == 7
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == target.tokenizer.chat_template
    assert (tmp_path / "out" / "chat_template.jinja").is_file()
    assert tokenizer.convert_tokens_to_ids("<mine>") == 61


# --- adapters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_rank_is_found_below_the_rounding_of_the_precision(dtype):
    kind = getattr(torch, dtype)
    torch.manual_seed(0)
    before = torch.randn(90, 70).to(kind)
    product = torch.randn(90, 4) @ torch.randn(4, 70)
    after = (before.float() + product).to(kind)
    found = factorise(before, after, limit=40)
    assert found.exact and found.rank == 4
    error = (found.b @ found.a - product).norm() / product.norm()
    assert error < 4 * torch.finfo(kind).eps


def test_a_matrix_that_was_stored_twice_has_the_rank_of_both_changes():
    torch.manual_seed(0)
    before = torch.randn(90, 70)
    middle = before - 0.1 * torch.randn(90, 4) @ torch.randn(4, 70)
    after = middle + 0.1 * torch.randn(90, 5) @ torch.randn(5, 70)
    found = factorise(before, after, limit=40)
    assert found.exact and found.rank == 9


def test_a_change_that_drowns_in_rounding_is_not_called_exact():
    torch.manual_seed(0)
    before = torch.randn(90, 70).bfloat16()
    after = (before.float() + 1e-3 * torch.randn(90, 2) @ torch.randn(2, 70)).bfloat16()
    assert not factorise(before, after, limit=20).exact


def test_a_truncated_product_is_the_best_one(monkeypatch):
    torch.manual_seed(0)
    before, change = torch.zeros(60, 50), torch.randn(60, 50)
    found = factorise(before, change, limit=10)
    u, s, vh = torch.linalg.svd(change.double())
    best = (u[:, :10] * s[:10]) @ vh[:10]
    assert not found.exact and found.rank == 10
    torch.testing.assert_close((found.b @ found.a).double(), best, atol=1e-5, rtol=1e-5)
    assert math.isclose(found.lost, float(s[10:].square().sum()), rel_tol=1e-9)


@pytest.mark.parametrize("rank", [5, 80])
def test_large_matrices_are_decomposed_in_parts(monkeypatch, rank):
    import pktkit.outputs.low_rank as low_rank

    torch.manual_seed(0)
    before = torch.randn(300, 400)
    after = before + 0.01 * torch.randn(300, rank) @ torch.randn(rank, 400)
    whole = factorise(before, after, limit=120)
    monkeypatch.setattr(low_rank, "DENSE", 100)
    parts = factorise(before, after, limit=120)
    assert whole.rank == parts.rank == rank and parts.exact
    torch.testing.assert_close(parts.b @ parts.a, whole.b @ whole.a, atol=1e-4, rtol=1e-4)


def test_a_full_rank_change_is_refused_or_cut_off_with_its_error(tmp_path):
    place = str(save_model(tiny_loaded("llama", seed=3), tmp_path / "base"))

    def full(target, journal):
        changed_matrices(target, journal, rank=None)

    target = load_model(place)
    with pytest.raises(UsageError, match=r"not of low rank.*--rank N.*--save delta"):
        saved(target, tmp_path / "adapter", Saving("adapter"), change=full)
    assert [p.name for p in tmp_path.iterdir()] == ["base"], "nothing is left behind"
    target = load_model(place)
    record = saved(target, tmp_path / "adapter", Saving("adapter", rank=6), change=full)
    figures = record["saved"]
    assert not figures["exact"] and figures["rank"] == 6
    assert 0 < figures["relative_error"] < 1
    attached = logits(peft_model(place, tmp_path / "adapter"))
    base, merged = logits(load_model(place)), logits(target)
    error = float((attached - merged).norm() / (merged - base).norm())
    assert 0.01 < error < 1.2 and 0.01 < figures["logit_error"] < 1.2
    assert f"{figures['relative_error']:.1%}" in (tmp_path / "adapter" / "README.md").read_text()


def test_norms_and_biases_go_into_an_adapter(tmp_path):
    for family in ("gpt2", "qwen2", "gemma", "llama"):
        place = str(save_model(tiny_loaded(family, seed=3), tmp_path / family / "base"))

        def change(target, journal):
            changed_matrices(target, journal)
            for name, value in list(target.model.named_parameters()):
                if value.dim() == 1:
                    journal.write(name, value.detach() * 1.1 + 0.05)

        target = load_model(place)
        record = saved(target, tmp_path / family / "adapter", Saving("adapter"), change=change)
        assert record["saved"]["exact"] and record["saved"]["whole_modules"]
        attached = peft_model(place, tmp_path / family / "adapter")
        torch.testing.assert_close(logits(attached), logits(target), rtol=1e-4, atol=1e-4)


def test_embeddings_go_into_an_adapter_unless_tied(tmp_path):
    def change(target, journal):
        name = f"{target.anatomy.layout.embedding}.weight"
        value = journal.parameter(name).detach()
        journal.write(name, value + torch.arange(61.0)[:, None] * 0.01)

    for tied in (False, True):
        place = str(save_model(tiny_loaded("llama", tied=tied), tmp_path / f"base{tied}"))
        target = load_model(place)
        out = tmp_path / f"adapter{tied}"
        if tied:
            with pytest.raises(UsageError, match=r"tied to its LM head.*--save delta"):
                saved(target, out, Saving("adapter"), change=change)
            continue
        assert saved(target, out, Saving("adapter"), change=change)["saved"]["rank"] == 1
        attached = peft_model(place, out)
        torch.testing.assert_close(logits(attached), logits(target), rtol=1e-4, atol=1e-4)


def test_a_change_of_norms_alone_is_no_adapter(tmp_path):
    target = tiny_loaded("llama")

    def change(target, journal):
        journal.write("model.norm.weight", torch.ones(32))

    with pytest.raises(UsageError, match=r"no matrix that LoRA can hold.*--save delta"):
        saved(target, tmp_path / "adapter", Saving("adapter"), change=change)


def test_a_bfloat16_target_in_every_form(tmp_path):
    from transformers import AutoModelForCausalLM

    place = str(save_model(tiny_loaded("llama", seed=3), tmp_path / "base"))
    for kind in ("checkpoint", "adapter", "delta"):
        target = load_model(place, dtype="bfloat16")
        record = saved(target, tmp_path / kind, Saving(kind))
        assert record["models"]["target"]["dtype"] == "bfloat16"
        if kind == "checkpoint":
            loaded = AutoModelForCausalLM.from_pretrained(tmp_path / kind, dtype="auto")
            assert loaded.dtype == torch.bfloat16
            assert torch.equal(logits(loaded), logits(target))
        if kind == "adapter":
            assert record["saved"]["exact"] and record["saved"]["rank"] == RANK
        if kind == "delta":
            with pytest.raises(UsageError, match=r"in bfloat16, but .* in float32"):
                apply_delta(load_model(place), tmp_path / kind)


# --- deltas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_delta_is_a_difference_and_corrects_what_does_not_round_back(dtype):
    torch.manual_seed(0)
    before = torch.randn(40, 30).to(dtype)
    after = (before.float() + 0.01 * torch.randn(40, 30)).to(dtype)
    after[0, :3] = torch.tensor([-0.0, float("inf"), 1e-7]).to(dtype)
    how, stored = encode("w", before, after)
    assert how == DIFFERENCE
    assert torch.equal(stored["w"][1:].float(), (after - before)[1:].float())
    assert len(stored["w::at"]) < 40 * 30 / 8
    new = decode("w", before, stored, how)
    assert torch.equal(new.view(torch.uint8), after.view(torch.uint8))
    how, stored = encode("w", before, torch.randn(40, 30).to(dtype))
    assert how == VALUES and list(stored) == ["w"]


def test_a_damaged_delta_is_noticed(tmp_path):
    place = str(save_model(tiny_loaded("llama", blocks=1), tmp_path / "base"))
    saved(load_model(place), tmp_path / "delta", Saving("delta"))
    file = tmp_path / "delta" / "delta.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0] += 1
    save_file(tensors, file)
    with pytest.raises(UsageError, match="does not restore the model it was made of"):
        apply_delta(load_model(place), tmp_path / "delta")
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match="missing or damaged"):
        apply_delta(load_model(place), tmp_path / "delta")


# --- verification --------------------------------------------------------------------------------


def test_undone_is_for_a_while():
    target = tiny_loaded("llama", blocks=1)
    first = snapshot(target)
    journal = Journal(target)
    with journal:
        changed_matrices(target, journal)
    now, names = snapshot(target), set(journal.changed())
    with journal.undone() as after:
        assert same_bits(target, first)
        assert set(after) == names
        with torch.no_grad():
            journal.parameter(min(names)).zero_()
    assert same_bits(target, now)


def test_agreement_counts_rounding_and_nothing_else():
    said = torch.tensor([1.0, -10.0])
    assert str(agreement(said, said, torch.float32)) == "logits equal bit for bit"
    assert agreement(said, said + 9e-4, torch.float32).holds
    assert not agreement(said, said + 2e-3, torch.float32).holds
    assert not agreement(said, said * float("nan"), torch.bfloat16).holds
    assert not agreement(said, said[:1], torch.float32).holds
    assert Agreement(None).holds and "not compared" in str(Agreement(None))


@pytest.mark.parametrize("kind", ["checkpoint", "adapter", "delta"])
def test_what_says_something_else_is_removed(kind, tmp_path, monkeypatch):
    import pktkit.checkpoints.verifying as verifying
    import pktkit.outputs.adapter as adapter
    import pktkit.outputs.delta as delta

    target = load_model(str(save_model(tiny_loaded("llama", blocks=1), tmp_path / "base")))
    now = {}

    def change(target, journal):
        changed_matrices(target, journal)
        now.update(snapshot(target))

    if kind == "checkpoint":
        told = verifying.logits
        monkeypatch.setattr(verifying, "logits", lambda m, i: told(m, i) + (m is not target.model))
    elif kind == "adapter":
        write = adapter._write

        def swapped(target, change, directory, base):
            write(target, change, directory, base)
            file = directory / "adapter_model.safetensors"
            save_file({k: v * 2 for k, v in load_file(file).items()}, file)

        monkeypatch.setattr(adapter, "_write", swapped)
    else:
        monkeypatch.setattr(delta, "decode", lambda name, before, stored, how: before + 1)
    with pytest.raises(UsageError, match=r"something else|does not restore"):
        saved(target, tmp_path / "out", Saving(kind), change=change)
    assert [p.name for p in tmp_path.iterdir()] == ["base"]
    assert same_bits(target, now), "the target in memory is as it was"


def test_keys_that_do_not_fit_the_configuration(tmp_path, monkeypatch):
    target = tiny_loaded("llama", blocks=2)
    write = target.model.save_pretrained

    def with_more(directory, **options):
        write(directory, **options)
        file = directory / "config.json"
        content = json.loads(file.read_text()) | {"num_hidden_layers": 1}
        file.write_text(json.dumps(content))

    monkeypatch.setattr(target.model, "save_pretrained", with_more)
    with pytest.raises(UsageError, match="do not fit, unexpected keys"):
        save_model(target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["checkpoint", "adapter", "delta"])
def test_a_full_disk_leaves_nothing(kind, tmp_path, monkeypatch):
    import safetensors.torch

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    target = tiny_loaded("llama", blocks=1)
    if kind == "checkpoint":
        monkeypatch.setattr(target.tokenizer, "save_pretrained", full)
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(DoesNotFitError, match="the disk is full"):
        saved(target, tmp_path / "out", Saving(kind))
    assert not list(tmp_path.iterdir())


# --- cards ---------------------------------------------------------------------------------------


def test_the_card_holds_a_recipe_that_reads_back_and_front_matter_that_is_yaml(tmp_path):
    import yaml

    base = save_model(
        tiny_loaded("llama", blocks=1),
        tmp_path / "base",
        extra={"README.md": "---\nlicense: apache-2.0\n---\ntext --- more"},
    )
    target = load_model(str(base))
    saved(target, tmp_path / "out", Saving())
    card = (tmp_path / "out" / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["license"] == "apache-2.0" and front["library_name"] == "transformers"
    assert "base_model" not in front, "it lies on this disk, not on the hub"
    recipe = body.split("````yaml\n")[1].split("````")[0]
    assert parse_recipe(recipe) == STRATEGY
    assert parse_recipe((tmp_path / "out" / "recipe.yaml").read_text()) == STRATEGY
    assert weights_hash(target.model)[:16] in body
    assert (
        str(tmp_path) not in card
        and str(tmp_path) not in (tmp_path / "out" / "transfer.json").read_text()
    ), "no path of this machine"


def test_the_card_names_the_repository_and_the_scores():
    facts = {
        "name": "t@main", "repository": "org/t", "revision": "abc", "sha256": "0" * 64,
        "dtype": "float32", "license": "",
    }  # fmt: skip
    own = {
        "task": "words", "split": "test", "metric": "accuracy", "items": 10, "before": 20.0,
        "after": 30.0, "difference": 10.0, "low": -5.0, "high": 25.0,
    }  # fmt: skip
    row = {
        "strategy": "given", "mean": 31.5, "seeds": 3, "points": 11.5, "low": 2.0, "high": 20.0,
        "adjusted_p": 0.01,
    }  # fmt: skip
    record = record_of(tiny_loaded("llama")) | {
        "models": {"source": facts, "target": facts},
        "scores": {"own": own, "comparison": [row]},
        "saved": {"kind": "adapter", "exact": True, "rank": 3, "matrices": 2, "biases": 0,
                  "whole_modules": []},
        "verified": "read by peft",
        "result_sha256": "1" * 64,
    }  # fmt: skip
    card = model_card(record)
    assert "base_model: org/t\nbase_model_relation: adapter" in card
    assert "| 20.0 | 30.0 | +10.0 [-5.0, +25.0] |" in card
    assert "| `given` | 31.5 | 3 | +11.5 [+2.0, +20.0] | 0.010 |" in card
    assert 'from_pretrained("org/t", revision="abc", dtype="float32")' in card
    assert "state no license" in card and "without controls" not in card


# --- the command ---------------------------------------------------------------------------------

QUICK = ("--set", "budget.steps=3", "--set", "budget.rows=32")


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_every_form_from_the_command_line_gives_the_same_model(tmp_path):
    _, base = pair_paths()
    told = {}
    for form in ("adapter", "delta"):
        out = tmp_path / form
        result = invoke(
            "transfer", "--strategy", "sft", "--save", form, "--out", out, "--set",
            "injector.train=lora", "--set", "injector.rank=4", *QUICK,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert f"wrote    {out}  {form}:" in result.output
        record = json.loads((out / "transfer.json").read_text())
        told[form] = record["result_sha256"]
        assert {p.name for p in out.iterdir()} >= {"README.md", "recipe.yaml", "transfer.json"}
        if form == "adapter":
            assert record["saved"]["exact"] and record["saved"]["rank"] <= 4
    assert len(set(told.values())) == 1
    result = invoke("apply", tmp_path / "delta", base, "--out", tmp_path / "restored")
    assert result.exit_code == 0, result.output
    restored = load_model(str(tmp_path / "restored"))
    assert weights_hash(restored.model) == told["delta"]
    assert "complete checkpoint" in (tmp_path / "restored" / "README.md").read_text()
    again = invoke(
        "transfer", "--strategy", tmp_path / "delta" / "recipe.yaml", "--out", tmp_path / "again"
    )
    assert again.exit_code == 0, again.output
    record = json.loads((tmp_path / "again" / "transfer.json").read_text())
    assert record["result_sha256"] == told["delta"], "the recipe repeats the transfer"
    wrong = invoke("apply", tmp_path / "delta", tmp_path / "restored", "--out", tmp_path / "x")
    assert wrong.exit_code == 2 and "this delta is of 'target'" in wrong.output
    adapter = invoke("apply", tmp_path / "adapter", base, "--out", tmp_path / "x")
    assert adapter.exit_code == 2 and "is a PEFT adapter" in adapter.output
    assert not (tmp_path / "x").exists()


def test_scores_and_a_comparison_go_into_the_card(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    result = invoke(
        "compare", "--strategies", "naive", "--no-controls", "--seeds", "1", "--limit", "20",
        "--jobs", "0", "--out", run, *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    result = invoke(
        "transfer", "--strategy", "naive", "--out", out, "--score", "dev", "--card-scores", run,
        *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    card, record = (out / "README.md").read_text(), json.loads((out / "transfer.json").read_text())
    own = record["scores"]["own"]
    assert own["split"] == "dev" and own["low"] <= own["difference"] <= own["high"]
    assert math.isclose(own["after"] - own["before"], own["difference"], abs_tol=1e-9)
    assert f"| {own['before']:.1f} | {own['after']:.1f} |" in card
    rows = {row["strategy"]: row["mean"] for row in record["scores"]["comparison"]}
    assert set(rows) == {"naive", "target", "source"}
    assert f"| `source` | {rows['source']:.1f} | 1 |" in card
    other = invoke(
        "transfer", "--strategy", "latent", "--out", tmp_path / "x", "--card-scores", run
    )
    assert other.exit_code == 2 and "holds no scores of strategy 'latent'" in other.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "3"], "--rank is of an adapter"),
        (["--save", "delta", "--max-shard-size", "5GB"], "--max-shard-size is of a checkpoint"),
        (["--max-shard-size", "huge"], "a size such as 500MB or 5GB, got 'huge'"),
        (["--save", "lora"], "'lora' is not one of"),
    ],
)
def test_options_that_do_not_go_together(arguments, message, tmp_path):
    result = invoke("transfer", "--strategy", "naive", "--out", tmp_path / "x", *arguments)
    assert result.exit_code == 2 and message in result.output.replace("\n", " ")
    assert not (tmp_path / "x").exists()


# --- another reader ------------------------------------------------------------------------------


def read_by_numpy(directory, ids, adapter=None):
    """Compute a Llama's logits in NumPy from nothing but the files: neither torch nor transformers.

    Arguments:
        directory: a checkpoint.
        ids: tokens.
        adapter: a LoRA adapter on it, read alike.
    """
    config = json.loads((directory / "config.json").read_text())
    weights = {}
    for shard in directory.glob("*.safetensors"):
        weights |= numpy_files.load_file(shard)
    if adapter is not None:
        settings = json.loads((adapter / "adapter_config.json").read_text())
        factors = numpy_files.load_file(adapter / "adapter_model.safetensors")
        for name in [n for n in factors if n.endswith(".lora_A.weight")]:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = factors[name.replace("lora_A", "lora_B")]
            scale = settings["lora_alpha"] / settings["r"]
            weights[f"{module}.weight"] = weights[f"{module}.weight"] + scale * b @ factors[name]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    length = len(ids)
    theta = config["rope_parameters"]["rope_theta"]
    angles = np.outer(np.arange(length), theta ** (-np.arange(0, size, 2) / size))
    cos, sin = (np.concatenate([f(angles)] * 2, -1) for f in (np.cos, np.sin))

    def norm(x, name):
        variance = (x**2).mean(-1, keepdims=True)
        return x / np.sqrt(variance + config["rms_norm_eps"]) * weights[name]

    def turned(x):
        half = np.concatenate([-x[..., size // 2 :], x[..., : size // 2]], -1)
        return x * cos + half * sin

    x = weights["model.embed_tokens.weight"][ids].astype(np.float64)
    for block in range(config["num_hidden_layers"]):
        at = f"model.layers.{block}."

        def through(y, name, at=at):
            return y @ weights[f"{at}{name}.weight"].T

        y = norm(x, at + "input_layernorm.weight")
        q, k, v = (
            through(y, f"self_attn.{n}_proj").reshape(length, -1, size).swapaxes(0, 1)
            for n in "qkv"
        )
        q = turned(q)
        k, v = (np.repeat(z, heads // groups, axis=0) for z in (turned(k), v))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(size)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ v
        x = x + through(mixed.swapaxes(0, 1).reshape(length, -1), "self_attn.o_proj")
        y = norm(x, at + "post_attention_layernorm.weight")
        gate = through(y, "mlp.gate_proj")
        x = x + through(gate / (1 + np.exp(-gate)) * through(y, "mlp.up_proj"), "mlp.down_proj")
    tied = config["tie_word_embeddings"]
    head = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
    return norm(x, "model.norm.weight") @ head.T


@pytest.mark.parametrize("tied", [False, True])
def test_another_reader_makes_the_same_of_the_files(tied, tmp_path):
    base = save_model(tiny_loaded("llama", seed=3, tied=tied), tmp_path / "base")
    ids = list(range(3, 19))
    for kind in ("checkpoint", "adapter"):
        target = load_model(str(base))
        saved(target, tmp_path / kind, Saving(kind))
        with torch.no_grad():
            expected = target.model(input_ids=torch.tensor([ids])).logits[0].numpy()
        found = (
            read_by_numpy(tmp_path / kind, ids)
            if kind == "checkpoint"
            else read_by_numpy(base, ids, tmp_path / kind)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


READ_BY_MLX = {
    "llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
    "llama tied": {},
    "qwen2": {},
    "gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}, "ffn": 128},
    "phi": {"heads": 2},
    "gemma": {},
}
"""In sizes that MLX takes. Not GPT-2, whose names it knows without `transformer.` only."""


@pytest.mark.parametrize("case", READ_BY_MLX)
def test_an_installed_engine_makes_the_same_of_a_checkpoint(case, tmp_path):
    """MLX reads config.json and safetensors with code of its own; `pip install mlx[cpu] mlx-lm`."""
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.utils")
    family, options = MODELS[case]
    handle = tiny_loaded(family, seed=3, **options, **READ_BY_MLX[case])
    target = load_model(str(save_model(handle, tmp_path / "base")))
    saved(target, tmp_path / "out", Saving())
    model, _ = utils.load_model(tmp_path / "out")
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        expected = target.model(input_ids=ids).logits.numpy()
    found = np.array(model(mx.array(ids.numpy())).astype(mx.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


SCALED = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "parameters", "expected"),
    [
        ("llama", {"rope_type": "default", "rope_theta": 77.0}, {"rope_theta": 77.0}),
        ("llama", SCALED, {"rope_theta": 100.0, "rope_scaling": {"factor": 4.0, "type": "yarn"}}),
        (
            "gpt_neox",
            {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5},
            {"rotary_emb_base": 50.0, "rotary_pct": 0.5},
        ),
        ("gemma3_text", None, {"rope_theta": 1e6, "rope_local_base_freq": 1e4}),
        ("gpt2", None, {"n_ctx": 128, "torch_dtype": "float32"}),
    ],
)
def test_older_names_say_the_same_and_change_nothing(family, parameters, expected, tmp_path):
    given = {} if parameters is None else {"rope_parameters": dict(parameters)}
    target = tiny_loaded(family, **given)
    place = save_model(target, tmp_path / "out")
    config = json.loads((place / "config.json").read_text())
    for name, value in expected.items():
        if isinstance(value, dict):
            assert value.items() <= config[name].items()
        else:
            assert config[name] == value
    loaded = load_model(str(place))
    assert torch.equal(logits(loaded), logits(target))
    if parameters is not None:
        assert parameters.items() <= loaded.model.config.rope_parameters.items()
