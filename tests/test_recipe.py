"""Recipes, options and overrides: what is written is what is read, and errors say where."""

from __future__ import annotations

import enum
import pathlib
import types
import typing

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pktkit.components import ROLES, Choice, Component, Kind, Strategy
from pktkit.discovery.plugins import PluginSelection, load_plugins
from pktkit.errors import PluginError, UsageError
from pktkit.hookspecs import hookimpl
from pktkit.options import build_options, describe_options, option
from pktkit.overrides import apply_all, parse_override
from pktkit.recipe import dump_recipe, load_recipe, parse_recipe, parse_value
from pktkit.registry import Registry


class Mode(enum.StrEnum):
    UNIT = "unit"
    TIGHT = "tight-frame"


def _positive(instance, attribute, value):
    if value <= 0:
        raise ValueError(f"{attribute.name} must be positive, got {value}")


@attrs.frozen
class Inner:
    depth: int = 1


@attrs.frozen
class Options:
    rank: int = option(4, "rank of the update", validator=_positive)
    rate: float = option(1e-3, "learning rate")
    bias: bool = option(False, "train biases")
    label: str = option("x", "a label")
    mode: Mode = option(Mode.UNIT, "which matrix")
    pool: str = option("mean", "pooling", choices=("mean", "last"))
    limit: int | None = option(None, "at most so many")
    parts: tuple[str, ...] = option((), "projections")
    blocks: tuple[int, ...] = option((), "blocks")
    window: tuple[float, float] = option((0.0, 1.0), "from, to")
    where: pathlib.Path | None = option(None, "a file")
    inner: Inner = option(Inner(), "nested")
    kind: typing.Literal["a", "b"] = option("a", "a literal")
    table: dict[str, float] = option(attrs.Factory(dict), "weights by name")


@attrs.frozen
class Required:
    _path: str = option(attrs.NOTHING, "where from")


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("rank", 8, 8),
        ("rank", 8.0, 8),
        ("rank", "1e2", 100),
        ("rank", 2**70, 2**70),
        ("rate", 1, 1.0),
        ("rate", "1e-3", 1e-3),
        ("rate", "-.5", -0.5),
        ("bias", True, True),
        ("label", "no", "no"),
        ("mode", "tight-frame", Mode.TIGHT),
        ("mode", "TIGHT", Mode.TIGHT),
        ("mode", Mode.UNIT, Mode.UNIT),
        ("pool", "last", "last"),
        ("limit", None, None),
        ("limit", "none", None),
        ("limit", 3, 3),
        ("parts", ["q", "k"], ("q", "k")),
        ("parts", "q, k", ("q", "k")),
        ("parts", [], ()),
        ("blocks", 3, (3,)),
        ("blocks", "1,2", (1, 2)),
        ("window", [0, "1e1"], (0.0, 10.0)),
        ("where", "a/b", pathlib.Path("a/b")),
        ("inner", {"depth": 2}, Inner(2)),
        ("kind", "b", "b"),
        ("table", {"a": 1}, {"a": 1.0}),
    ],
)
def test_values_are_converted(name, written, expected):
    built = getattr(build_options(Options, {name: written}, "aligner"), name)
    assert built == expected
    assert type(built) is type(expected)


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("rank", "many", "aligner.rank must be a whole number, got 'many'"),
        ("rank", 1.5, "a whole number"),
        ("rank", True, "a whole number"),
        ("rank", float("inf"), "a whole number"),
        ("rank", None, "a whole number, got None"),
        ("rank", 0, "aligner: rank must be positive, got 0"),
        ("rate", "fast", "a number, got 'fast'"),
        ("rate", float("nan"), "a number"),
        ("rate", False, "a number"),
        ("bias", "yes", "true or false"),
        ("bias", 1, "true or false"),
        ("label", 5, "text (put it in quotes)"),
        ("mode", "dual", "one of unit, tight-frame"),
        ("pool", "lats", "pool must be one of mean, last, got 'lats'. Did you mean 'last'?"),
        ("limit", "few", "a whole number or null"),
        ("parts", [1], "a list whose every value is text"),
        ("parts", None, "a list"),
        ("window", [1], "a list of 2 values"),
        ("inner", {"dept": 2}, "aligner.inner has no option 'dept'. Did you mean 'depth'?"),
        ("inner", 5, "a Inner"),
        ("kind", "c", "one of a, b"),
        ("table", 5, "a mapping"),
        ("rnak", 5, "aligner has no option 'rnak'. Did you mean 'rank'? Options: rank=4, rate=0.0"),
    ],
)
def test_values_that_do_not_fit_are_refused(name, written, expected):
    with pytest.raises(UsageError) as caught:
        build_options(Options, {name: written}, "aligner")
    assert expected in str(caught.value)


def test_required_options():
    assert build_options(Required, {"path": "p"}, "aligner") == Required("p")
    with pytest.raises(UsageError, match="option 'path' must be given"):
        build_options(Required, {}, "aligner")


def test_options_must_be_attrs_classes():
    with pytest.raises(PluginError, match="not an attrs class"):
        build_options(dict, {}, "aligner")


def test_unresolvable_types_are_the_plugins_fault():
    @attrs.frozen
    class Lost:
        field: NowhereDefined = None  # noqa: F821

    with pytest.raises(PluginError, match="cannot be resolved"):
        build_options(Lost, {}, "aligner")


def test_options_describe_themselves():
    fields = {field.name: field for field in describe_options(Options)}
    assert fields["rank"].doc == "rank of the update"
    assert fields["pool"].choices == ("mean", "last")
    assert fields["limit"].type == "int | null"
    assert fields["mode"].type == "unit | tight-frame"
    assert fields["table"].default == {}
    assert str(fields["parts"]) == "parts=[]"
    assert describe_options(Required)[0].required


names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
option_names = names.filter(lambda name: name != "name")
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
choices = st.builds(Choice, names, st.dictionaries(option_names, values, max_size=2))
recipes = st.builds(
    Strategy,
    name=names,
    matcher=st.none() | choices,
    aligner=st.none() | choices,
    injector=st.none() | choices,
    role=st.sampled_from(ROLES),
    placebo_of=st.lists(names, max_size=2).map(tuple),
    isolates=texts,
    budget=st.dictionaries(option_names, values, max_size=2),
    summary=texts,
    reference=texts,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(Strategy("a", summary="\x85 \u2028 \ufeff", reference="é → ×"))
@given(recipes)
def test_a_recipe_reads_back_as_it_was(strategy):
    assert parse_recipe(dump_recipe(strategy)) == strategy


def test_component_names_that_look_like_other_types_read_back():
    strategy = Strategy("1e3", matcher=Choice("null"), aligner=Choice("5", {"a": "5", "b": "~"}))
    assert parse_recipe(dump_recipe(strategy)) == strategy


def test_rich_values_are_written_plainly():
    options = {"mode": Mode.TIGHT, "where": pathlib.Path("a"), "blocks": (1, 2), "inner": Inner(3)}
    written = dump_recipe(Strategy("s", aligner=Choice("a", options)))
    read = parse_recipe(written).aligner.options
    assert read == {"mode": "tight-frame", "where": "a", "blocks": [1, 2], "inner": {"depth": 3}}
    assert build_options(Options, read, "s") == Options(**options)


def test_short_and_long_stages(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: mine\nmatcher: depth\naligner: {name: semantic, rate: 1e-3}\n")
    assert load_recipe(path) == Strategy(
        "mine", matcher=Choice("depth"), aligner=Choice("semantic", {"rate": "1e-3"})
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "is not YAML"),
        ("a: b\n\x00", "is not YAML"),
        ("!!python/object:os.system {}", "is not YAML"),
        ("- a", "must be a mapping"),
        ("", "must be a mapping"),
        ("name: a\nmather: depth", "unknown key 'mather'. Did you mean 'matcher'?"),
        ("matcher: depth", "key 'name' is missing"),
        ("name: a\nname: b", "key 'name' is given twice"),
        ("name: a:b", "name must be letters"),
        ("name: 5", "name must be letters"),
        ("name: a\nmatcher: 5", "must be a component's name"),
        ("name: a\nmatcher: {rank: 5}", "must be a component's name or a mapping with 'name'"),
        ("name: a\nmatcher: {name: b, 5: 5}", "option names must be text"),
        ("name: a\nrole: teacher", "role must be one of method, "),
        ("name: a\nplacebo_of: latent", "placebo_of must be a list of strategies"),
        ("name: a\nisolates: 5", "isolates must be text"),
        ("name: a\nbudget: 100", "budget must be a mapping"),
        ("name: a\nsummary: 5", "summary must be text"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, text, expected):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
def test_unreadable_files_are_refused(tmp_path, content):
    path = tmp_path / "missing.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(path)


def test_merge_keys_still_work():
    text = "name: a\nmatcher: {name: b, x: &x {k: 1}, y: {<<: *x, <<: *x, l: 2}}"
    assert parse_recipe(text).matcher.options["y"] == {"k": 1, "l": 2}


def test_parse_value():
    assert parse_value("[1, a]") == [1, "a"]
    assert parse_value("") is None
    with pytest.raises(UsageError, match="not a YAML value"):
        parse_value("[1")


@pytest.mark.parametrize("text", ["rank=8", "aligner.rank", "a b:aligner.rank=8", "=", "", ".=1"])
def test_malformed_overrides_are_refused(text):
    with pytest.raises(UsageError, match=r"must be stage.option=value"):
        parse_override(text)


def test_unknown_stage_is_guessed():
    with pytest.raises(UsageError, match="Did you mean 'aligner'"):
        parse_override("alinger.rank=8")


class WithRank:
    Options = Options


@attrs.frozen
class PlainOptions:
    label: str = "x"


class Plain:
    Options = PlainOptions


class Bare:
    Options = attrs.make_class("BareOptions", [], frozen=True)


@pytest.fixture
def registry():
    @hookimpl
    def pktkit_latent_aligners():
        return [Component("a", f"{__name__}:WithRank"), Component("b", f"{__name__}:Plain")]

    @hookimpl
    def pktkit_layer_matchers():
        return [Component("bare", f"{__name__}:Bare")]

    module = types.ModuleType("mine")
    module.pktkit_latent_aligners = pktkit_latent_aligners
    module.pktkit_layer_matchers = pktkit_layer_matchers
    found = Registry(load_plugins(PluginSelection(only=()), extra={"mine": module}))
    assert found.names(Kind.ALIGNER) == ("a", "b")
    return found


STRATEGIES = [
    Strategy("one", aligner=Choice("a")),
    Strategy("two", aligner=Choice("a", {"rank": 2})),
    Strategy("three", aligner=Choice("b")),
    Strategy("none"),
]


def test_an_override_reaches_every_strategy_that_has_the_option(registry):
    one, two, three, none = apply_all(
        STRATEGIES, ["aligner.rank=8", "two:aligner.bias=true"], registry
    )
    assert one.aligner.options == {"rank": 8}
    assert two.aligner.options == {"rank": 8, "bias": True}
    assert (three, none) == tuple(STRATEGIES[2:])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("aligner.rnak=8", "no selected strategy has the option 'aligner.rnak'. Did you mean"),
        ("three:aligner.rank=8", "no selected strategy has the option 'aligner.rank'"),
        ("matcher.rank=8", "no selected strategy has the stage 'matcher'"),
        ("budget.steps=8", "no selected strategy has the stage 'budget'"),
        ("tow:aligner.rank=8", "unknown strategy 'tow'. Did you mean 'two'?"),
        ("aligner.rank=many", "strategy 'one': aligner 'a'.rank must be a whole number"),
        ("aligner.rank=-1", "strategy 'one': aligner 'a': rank must be positive"),
    ],
)
def test_an_override_that_fits_nothing_is_an_error(registry, override, expected):
    with pytest.raises(UsageError) as caught:
        apply_all(STRATEGIES, [override], registry)
    assert expected in str(caught.value)


def test_an_override_of_a_stage_without_options_says_so(registry):
    strategies = [*STRATEGIES, Strategy("bare", matcher=Choice("bare"))]
    with pytest.raises(UsageError, match="no matcher of the strategies has options"):
        apply_all(strategies, ["matcher.rank=8"], registry)
