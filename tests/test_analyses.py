"""Analyses: what must hold of their numbers, their pictures and the command that draws them."""

from __future__ import annotations

import io
import json
import math

import attrs
import pytest
import torch
from click.testing import CliRunner
from tiny_transfers import pair_of, same_bits, snapshot, word_task

from pktkit import plotting
from pktkit.activations.similarity import centred_cosine, mean_cosines
from pktkit.analysing import run_analyses, run_analysis
from pktkit.analysis import AnalysisContext, AnalysisResult, Table
from pktkit.chosen_analyses import apply_overrides, choose_analyses
from pktkit.cli import main
from pktkit.components import Choice, Component, Kind
from pktkit.discovery.plugins import load_plugins
from pktkit.errors import StrategyError, UsageError
from pktkit.hookspecs import hookimpl
from pktkit.outcomes import PNG_SIGNATURE, Figure
from pktkit.pair import ModelPair
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.report.jsonfile import plain
from pktkit.settings import ProbeSettings
from pktkit.state_maps import AffineMap
from pktkit.tasks.base import Item
from pktkit.testing import tiny_loaded
from pktkit.values import Alignment, Interface, Origin, Space, TargetStates
from pktkit_latent.analyses.common import answer_positions, number, spread, token_chunks
from pktkit_latent.analyses.decompose import frames

BUILT_IN = ["alignment", "attribution", "cka", "decompose"]
QUICK = {"steps": 2, "batch_size": 4, "learning_rate": 1e-2}


@attrs.frozen
class NoOptions:
    """No settings."""


class Careless:
    """An analysis that changes the target behind everybody's back."""

    Options = NoOptions

    def __init__(self, options):
        pass

    def analyse(self, context):
        with torch.no_grad():
            next(iter(context.pair.target.model.parameters())).add_(1)
        return AnalysisResult("careless", "", {})


class Wrong(Careless):
    """An analysis that returns something else."""

    def analyse(self, context):
        return {"title": "mine"}


class Failing(Careless):
    """An analysis with an error of its own."""

    def analyse(self, context):
        raise ZeroDivisionError("on purpose")


class Fitted:
    """An aligner fitted by least squares on split `align`."""

    Options = NoOptions

    def __init__(self, options):
        pass

    def align(self, pair, layer_map, probe):
        rows = range(len(probe.encoded("align").items))
        maps = {}
        for link in layer_map.links:
            theirs = probe.states("align", link.sources).read(rows)[link.sources[0]].double()
            ours = probe.states("align", (link.target,), origin=Origin.TARGET)
            wanted = ours.read(rows)[link.target].double()
            matrix = torch.linalg.lstsq(theirs, wanted).solution.T
            maps[link.target] = AffineMap(matrix)
        return Alignment("fitted", layer_map, TargetStates(maps, layer_map, Interface.RESIDUAL))


class Stays(Fitted):
    """An aligner whose states stay in the source's space."""

    def align(self, pair, layer_map, probe):
        states = super().align(pair, layer_map, probe).target_states
        return Alignment("s", layer_map, attrs.evolve(states, space=Space.ORIGIN))


class Plugin:
    @hookimpl
    def pktkit_analyses(self):
        return [
            Component("careless", "test_analyses:Careless"),
            Component("wrong", "test_analyses:Wrong"),
            Component("failing", "test_analyses:Failing"),
        ]

    @hookimpl
    def pktkit_latent_aligners(self):
        return [
            Component("fitted", "test_analyses:Fitted"),
            Component("stays", "test_analyses:Stays"),
        ]


@pytest.fixture(scope="module")
def registry():
    return Registry(load_plugins(extra={"tiny": Plugin()}))


def task_of(rows=40):
    """Items whose prompts differ, so that their states do, and answers of several lengths."""
    generator = torch.Generator().manual_seed(0)

    def words(count):
        return " ".join(f"t{int(i)}" for i in torch.randint(0, 50, (count,), generator=generator))

    items = tuple(Item(f"i{i}", words(4), words(1 + i % 3)) for i in range(rows))
    return attrs.evolve(
        word_task(4), splits=dict.fromkeys(word_task(4).splits, items), budget=QUICK
    )


@pytest.fixture(scope="module")
def context(registry):
    settings = ProbeSettings(batch_size=8)
    return AnalysisContext(Probe(pair_of("llama"), task_of(), settings=settings), registry, seed=3)


@pytest.fixture(scope="module")
def results(context):
    """All built-in analyses, run once; the pair is the same before and after."""
    before = snapshot(context.pair.target), snapshot(context.pair.source)
    outcomes = {o.choice.name: o for o in run_analyses([Choice(n) for n in BUILT_IN], context)}
    assert same_bits(context.pair.target, before[0])
    assert same_bits(context.pair.source, before[1])
    assert all(o.error is None for o in outcomes.values()), outcomes
    return {name: outcome.result for name, outcome in outcomes.items()}


def finite(value):
    if isinstance(value, dict):
        return all(finite(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return all(finite(entry) for entry in value)
    return not isinstance(value, float) or math.isfinite(value)


def test_the_kind_is_known_everywhere(registry):
    assert Kind.ANALYSIS in registry._entries
    assert set(BUILT_IN) <= set(registry.names(Kind.ANALYSIS))
    listed = CliRunner().invoke(main, ["plugins", "list"]).stdout
    assert "\nanalysis   " in listed.replace("analysis  ", "analysis   ")


@pytest.mark.parametrize("name", BUILT_IN)
def test_figures_are_pictures_and_data_is_json(results, name):
    from PIL import Image

    result = results[name]
    assert result.figures
    for figure in result.figures:
        assert figure.png.startswith(PNG_SIGNATURE)
        with Image.open(io.BytesIO(figure.png)) as image:
            image.load()
            assert image.width > 500 and image.height > 150
            assert len(image.convert("L").getcolors()) > 8, "not a blank page"
        assert figure.caption and figure.alt
    assert finite(plain(result.data))
    json.dumps(plain(result.data), allow_nan=False)
    assert result.section().markdown.count("| ") > 4
    width = len(result.table.headings)
    assert all(len(row) == width for row in result.table.rows)


SCHEMA = {
    "decompose": {"fold_norm", "split", "source", "target"},
    "cka": {
        "interface", "strategy", "split", "tokens", "source_target", "target_target",
        "before_after",
    },
    "alignment": {
        "interface", "split", "items", "tokens", "exact_positions", "layer_map", "pairs", "maps",
        "missing",
    },
    "attribution": {
        "split", "items", "resamples", "loss", "critical", "mean", "low", "high", "win_share",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_schema_is_stable(results, name):
    assert set(results[name].data) == SCHEMA[name]


def test_recomposition_is_exact_where_it_must_be(results, context):
    for origin in Origin:
        data = results["decompose"].data[origin.value]
        assert data["cosine"]["tight"] == pytest.approx([1.0] * len(data["blocks"]), abs=1e-6)
        assert data["centred"]["tight"] == pytest.approx([1.0] * len(data["blocks"]), abs=1e-6)
        assert all(0.0 < value < 0.999 for value in data["cosine"]["output"])
    model = context.pair.target
    identity = torch.eye(model.anatomy.width, dtype=torch.float64)
    assert torch.allclose(frames(model)["tight"], identity, atol=1e-8)


@pytest.mark.parametrize("fold_norm", [False, True])
def test_frames_are_the_published_sums(context, fold_norm):
    """Against the definition, one basis vector per token, with torch's pseudo-inverse."""
    anatomy = context.pair.source.anatomy
    head = anatomy.head_weight.detach().double()
    head = head * anatomy.final_norm_gain().double() if fold_norm else head
    basis = torch.linalg.pinv(head).T
    basis = basis / basis.norm(dim=1, keepdim=True)
    found = frames(context.pair.source, fold_norm=fold_norm)
    assert torch.allclose(found["output"], basis.T @ basis, atol=1e-8)
    embedding = anatomy.embedding.weight.detach().double()
    unit = embedding / embedding.norm(dim=1, keepdim=True)
    assert torch.allclose(found["input"], unit.T @ unit, atol=1e-8)


def test_a_model_is_like_itself(registry):
    same = pair_of("llama").target
    probe = Probe(ModelPair(same, same), task_of())
    result = run_analysis(Choice("cka", {"strategy": ""}), AnalysisContext(probe, registry))
    matrix = torch.tensor(result.data["source_target"]["before"])
    assert matrix.diagonal().tolist() == pytest.approx([1.0] * 3)
    assert torch.allclose(matrix, matrix.T)
    assert result.data["strategy"] is None
    assert "after" not in result.data["target_target"]
    assert [figure.name for figure in result.figures] == ["source-target", "target-target"]


def test_cka_sees_the_transfer_and_the_transfer_is_rolled_back(results):
    data = results["cka"].data
    assert data["target_target"]["after"] != data["target_target"]["before"]
    assert data["source_target"]["after"] != data["source_target"]["before"]
    for row, values in enumerate(data["target_target"]["after"]):
        assert values[row] == pytest.approx(1.0)
    assert data["before_after"] != data["target_target"]["before"]


def test_alignment_of_the_target_with_itself_is_1_and_shuffled_is_near_0(context):
    choice = Choice("alignment", {"maps": {"self": "self", "fitted": {"name": "fitted"}}})
    result = run_analysis(choice, context)
    own, fitted = result.data["maps"]
    assert own["cosine"] == pytest.approx([1.0] * 3)
    assert all(abs(value) < 0.2 for value in own["shuffled"])
    assert all(value > 0.5 for value in fitted["cosine"]), "fitted on the very same items here"
    assert all(abs(value) < 0.3 for value in fitted["shuffled"])
    assert result.data["missing"] == []


def test_every_default_map_is_shown_or_said_to_be_missing(results, registry):
    from pktkit_latent.analyses.alignment import DEFAULT_MAPS

    data = results["alignment"].data
    shown = {entry["label"]: entry["aligner"] for entry in data["maps"]}
    missing = {entry["label"]: entry["reason"] for entry in data["missing"]}
    assert set(shown) | set(missing) == set(DEFAULT_MAPS)
    installed = registry.names(Kind.ALIGNER)
    for label, reason in missing.items():
        assert DEFAULT_MAPS[label].name not in installed
        assert reason == "not installed"
        assert f"{label} (not installed)" in results["alignment"].markdown
    assert {"unit", "tight", "dual", "lens", "lens, folded", "random"} <= set(shown)


def test_alignment_works_at_the_other_interface(context):
    options = {"interface": "contribution", "maps": {"unit": {"name": "semantic", "map": "unit"}}}
    data = run_analysis(Choice("alignment", options), context).data
    assert data["interface"] == "contribution"
    assert data["maps"][0]["options"]["interface"] == "contribution"
    refused = {**options, "maps": {"f": "fitted", "unit": "semantic"}}
    data = run_analysis(Choice("alignment", refused), context).data
    assert data["missing"][0]["reason"] == "it works at the residual interface only"


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({"x": {"map": "unit"}}, "must be a component's name or a mapping with 'name'"),
        ({"x": None}, "an aligner's name is missing"),
        ({"x": "stays"}, "none of the maps can be tried. x: its states stay in the source's"),
        ({"x": "no-such"}, "none of the maps can be tried. x: not installed"),
        ({"x": {"name": "semantic", "map": "unt"}}, "map must be one of"),
    ],
)
def test_maps_that_cannot_be_tried(context, maps, message):
    with pytest.raises((UsageError, StrategyError), match=message):
        run_analysis(Choice("alignment", {"maps": maps}), context)


def test_one_item_has_no_shuffled_control(registry):
    probe = Probe(pair_of("llama"), task_of(1))
    with pytest.raises(UsageError, match="needs at least two"):
        run_analysis(Choice("alignment"), AnalysisContext(probe, registry))


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma2"])
def test_analyses_work_on_other_families_and_without_stored_states(registry, family, monkeypatch):
    for draw in ("heat_maps", "lines", "bars"):
        monkeypatch.setattr(plotting, draw, lambda *_, **__: PNG_SIGNATURE)
    settings = ProbeSettings(batch_size=8, max_bytes=0)
    probe = Probe(pair_of(family), task_of(12), settings=settings)
    context = AnalysisContext(probe, registry)
    for outcome in run_analyses([Choice(name) for name in BUILT_IN], context):
        assert outcome.error is None, outcome.error


def test_stored_and_live_states_give_the_same_numbers(results, context):
    settings = ProbeSettings(batch_size=8, max_bytes=0)
    live = AnalysisContext(
        Probe(context.pair, context.probe.task, settings=settings), context.registry, seed=3
    )
    for entry, again in zip(
        results["alignment"].data["maps"],
        run_analysis(Choice("alignment"), live).data["maps"],
        strict=True,
    ):
        assert again["cosine"] == pytest.approx(entry["cosine"], abs=1e-5)
        assert again["shuffled"] == pytest.approx(entry["shuffled"], abs=0.02)


def test_pairs_with_different_tokenizers(registry):
    target = pair_of("llama").target
    other = tiny_loaded("gpt2", vocab=47, seed=4)
    context = AnalysisContext(Probe(ModelPair(other, target), task_of(12)), registry)
    names = ["decompose", "cka", "alignment", "attribution"]
    found = {o.choice.name: o for o in run_analyses([Choice(name) for name in names], context)}
    assert [outcome.error for outcome in found.values()] == [None] * 4
    blocks = found["decompose"].result.data["source"]["blocks"]
    assert blocks == [-1, *range(other.anatomy.n_blocks)]
    assert {entry["label"] for entry in found["alignment"].result.data["maps"]} >= {"unit", "lens"}


def test_what_goes_wrong_names_the_analysis(context):
    for name, message in (
        ("wrong", "analysis 'wrong': it returned dict, expected AnalysisResult"),
        ("failing", "analysis 'failing': ZeroDivisionError: on purpose"),
    ):
        with pytest.raises(StrategyError, match=message):
            run_analysis(Choice(name), context)


def test_a_changed_target_stops_what_follows(registry):
    context = AnalysisContext(Probe(pair_of("llama"), task_of(8)), registry)
    names = ["failing", "careless", "attribution"]
    first, second, third = run_analyses([Choice(name) for name in names], context)
    assert "on purpose" in str(first.error)
    assert "behind the journal's back" in str(second.error)
    assert third.result is None
    assert "the target is not as it was loaded" in str(third.error)


def test_streamed_cosines_equal_those_in_memory():
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(2, 37, 6, generator=generator) + 3
    chunks = [{"a": (left[s : s + 5], right[s : s + 5])} for s in range(0, 37, 5)]
    assert mean_cosines(lambda: chunks)["a"] == pytest.approx(centred_cosine(left, right))
    uncentred = torch.nn.functional.cosine_similarity(left, right).mean()
    assert mean_cosines(lambda: chunks, centred=False)["a"] == pytest.approx(float(uncentred))
    constant = [{"a": (left[:1].expand(9, 6), right[:9])}]
    assert math.isnan(mean_cosines(lambda: constant)["a"])


def test_answer_positions_leave_the_end_out(context):
    split = context.probe.encoded("dev")
    kept = answer_positions(split, [0, 1, 2])
    assert kept.tolist() == [True, False, True, True, False, True, True, True, False]
    only_ends = attrs.evolve(
        split,
        items=tuple(attrs.evolve(i, supervised=len(i.input_ids) - 1) for i in split.items),
    )
    assert answer_positions(only_ends, [0, 1]).all()


def test_chunks_are_equally_large_and_in_order(context):
    reader = context.probe.states("dev", (0, 1))
    whole = torch.cat([chunk[0][1] for chunk in token_chunks(context, [reader], 1000)])
    parts = [chunk[0][1] for chunk in token_chunks(context, [reader], 7)]
    assert {len(part) for part in parts} == {7}
    assert torch.equal(torch.cat(parts), whole[: 7 * len(parts)])
    assert len(whole) - 7 * len(parts) < 7


def test_small_helpers():
    assert spread(3) == [0, 1, 2]
    assert spread(24, 5) == [0, 6, 12, 17, 23]
    assert [number(v) for v in (-0.001, -0.25, math.nan)] == ["0.00", "−0.25", "–"]
    table = Table(["a", "b"], [("x|y", "1\n2")])
    assert table.markdown().splitlines()[-1] == "| x\\|y | 1 2 |"


def test_a_figure_must_be_a_png():
    with pytest.raises(ValueError, match="PNG"):
        Figure("a", b"GIF89a", "", "")
    with pytest.raises(ValueError):
        Figure("../a", PNG_SIGNATURE, "", "")


def test_large_heat_maps_have_no_room_for_values_and_missing_ones_are_allowed():
    values = [[i / 40 * j / 40 for j in range(40)] for i in range(41)]
    names = [str(i) for i in range(41)]
    large = plotting.HeatMap("large", values, names, names[:40], "row", "column")
    holes = plotting.HeatMap("holes", [[math.nan, 0.5]], ["a"], ["b", "c"])
    assert plotting.heat_maps([large], label="x") == plotting.heat_maps([large], label="x")
    assert plotting.heat_maps([holes, holes, holes], label="x").startswith(PNG_SIGNATURE)
    import sys

    assert "matplotlib.pyplot" not in sys.modules


def invoke(*arguments):
    return CliRunner().invoke(main, ["analyze", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["allignment"], "Did you mean 'alignment'?"),
        (["cka", "--task", "compos"], "Did you mean 'compose'?"),
        (["cka", "--set", "cka.stratgy=latent"], "Did you mean 'strategy'?"),
        (["cka", "--set", "alignment.matcher=depth"], "not among the chosen analyses"),
        (["cka", "--set", "x"], "NAME.option=value"),
        (["cka", "--set", "cka.chunk=2"], "chunk"),
        (["cka", "--source", "x"], "--target is missing"),
        (["cka", "--source", "x", "--target", "y"], "--task is needed"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert not list(tmp_path.iterdir())


def test_overrides_reach_every_analysis_that_has_the_option(registry):
    chosen = choose_analyses(registry, ["cka", "alignment", "attribution", "cka"])
    assert [choice.name for choice in chosen] == ["cka", "alignment", "attribution"]
    texts = ["analysis.interface=contribution", "attribution.resamples=20"]
    options = {c.name: dict(c.options) for c in apply_overrides(chosen, texts, registry)}
    assert options == {
        "cka": {"interface": "contribution"},
        "alignment": {"interface": "contribution"},
        "attribution": {"resamples": 20},
    }


def test_the_command_writes_everything_or_nothing(tmp_path):
    out = tmp_path / "out"
    limits = ["--limit", "24", "--set", "attribution.resamples=20", "--set", "cka.strategy=''"]
    done = invoke("all", *limits, "--out", out)
    assert done.exit_code == 0, done.output
    assert "alignment · Alignment of states" in done.stdout
    assert f"wrote    {out}" in done.stderr
    names = {path.name for path in out.iterdir()}
    assert {f"{name}.json" for name in BUILT_IN} | {"analysis.html"} <= names
    assert {"alignment.png", "attribution.png", "cka-source-target.png"} <= names
    document = json.loads((out / "alignment.json").read_text())
    assert document["data"]["items"] == 24
    assert [figure["file"] for figure in document["figures"]] == ["alignment.png"]
    assert not [path for path in tmp_path.iterdir() if path != out], "no temporary is left"
    again = invoke("attribution", "--out", out)
    assert again.exit_code == 2
    assert "not empty" in again.output


def test_a_failing_analysis_does_not_take_the_others_along(tmp_path):
    out = tmp_path / "out"
    arguments = ["attribution", "cka", "--limit", "8", "--set", "attribution.resamples=20"]
    done = invoke(*arguments, "--set", "cka.strategy=source", "--out", out)
    assert done.exit_code == 2
    assert "leaves the target as it is" in done.stderr
    assert (out / "attribution.json").exists()
    assert not (out / "cka.json").exists()
    assert "leaves the target as it is" in (out / "analysis.html").read_text()
    only = invoke("cka", "--set", "cka.strategy=source", "--out", tmp_path / "none")
    assert only.exit_code == 2
    assert not (tmp_path / "none").exists()
