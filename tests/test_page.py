"""The HTML report against the rules of HTML, and what its pictures draw."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import attrs
import html5lib
import pytest
from full_report import MAPS, ROLES, cells, full_document, full_summary
from hypothesis import given, settings
from hypothesis import strategies as st

from pktkit.report.html import render_html
from pktkit.report.page import Block, document, layers, losses
from pktkit.report.page.forest import Frame, Span, plot
from pktkit.report.page.layers import Drawn
from pktkit.report.page.plan import plan_blocks, plan_line
from pktkit.values import LayerLink, LayerMap

XHTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
FETCHING = ("src", "href", "poster", "data", "action", "srcset", "background")


def strictly(text):
    """Parse a document; anything that HTML does not allow is an error."""
    return html5lib.HTMLParser(strict=True).parse(text)


@pytest.fixture(scope="module")
def text():
    return full_document()


@pytest.fixture(scope="module")
def tree(text):
    return strictly(text)


def test_the_report_is_valid(tree):
    assert tree.tag == f"{XHTML}html"
    assert [child.tag for child in tree] == [f"{XHTML}head", f"{XHTML}body"]


def test_identifiers_are_unique_and_links_lead_to_them(tree):
    names = [each.get("id") for each in tree.iter() if each.get("id")]
    assert len(names) == len(set(names)) > 5
    links = [each.get("href") for each in tree.iter(f"{XHTML}a")]
    assert {link.removeprefix("#") for link in links} == set(names)


def test_headings_come_in_order(tree):
    levels = [int(e.tag[-1]) for e in tree.iter() if re.fullmatch(rf"{XHTML}h[1-6]", str(e.tag))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_everything_seen_is_also_said(tree):
    images = list(tree.iter(f"{XHTML}img"))
    assert images and all(image.get("alt") for image in images)
    pictures = list(tree.iter(f"{SVG}svg"))
    assert all(picture.get("role") == "img" for picture in pictures)
    assert all(picture[0].tag == f"{SVG}title" and picture[0].text for picture in pictures)
    assert all(picture[1].tag == f"{SVG}desc" and picture[1].text for picture in pictures)
    regions = [each for each in tree.iter() if each.get("role") == "region"]
    assert regions and all(region.get("aria-label") for region in regions)
    assert all(head.get("scope") in ("row", "col") for head in tree.iter(f"{XHTML}th"))


def test_nothing_is_fetched(tree, text):
    for each in tree.iter():
        for name in FETCHING:
            value = each.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,"))
        assert "url(" not in (each.get("style") or "")
    assert not re.search(r"https?://|url\(|@import", text)
    [policy] = [m for m in tree.iter(f"{XHTML}meta") if m.get("http-equiv")]
    assert policy.get("content").startswith("default-src 'none';")


def test_every_part_is_there(tree):
    titles = ["".join(heading.itertext()) for heading in tree.iter(f"{XHTML}h2")]
    points = [f"at rows={rows} · 40 items · 2 seeds" for rows in (16, 64, 256)]
    assert titles == [
        "Verdict",
        "Across tasks",
        "Score against training rows · arith",
        "Score against training rows · facts",
        *(f"{task} {point}" for task in ("arith", "facts") for point in points),
        "From a plugin",
        "Run",
    ]
    last = next(s for s in tree.iter(f"{XHTML}section") if s.get("id") == "arith-at-rows-256")
    parts = ["".join(heading.itertext()) for heading in last.iter(f"{XHTML}h3")]
    assert parts == [
        "Δ to the target",
        "Δ to the other references",
        "Budget",
        "Layer maps",
        "Losses",
    ]
    words = [picture[0].text for picture in last.iter(f"{SVG}svg")]
    assert "Forest plot of the difference to the untouched target" in words
    assert "Forest plot of the difference to sft" in words
    assert "Layer map depth" in words and "Loss of latent, layer" in words


def test_only_the_last_point_is_open(tree):
    sections = {s.get("id"): s for s in tree.iter(f"{XHTML}section")}
    assert sections["arith-at-rows-16"].get("class") == "folded"
    assert sections["arith-at-rows-256"].get("class") is None


def test_items_are_not_in_the_page():
    few, many = (render_html(full_summary(cells(["arith"], [""], n))) for n in (40, 400))
    assert len(many) < 1.05 * len(few)
    assert len(few) < 100_000


def test_learning_curves_have_a_panel_per_trained_row(tree):
    section = next(s for s in tree.iter(f"{XHTML}section") if "score" in s.get("id"))
    panels = list(section.iter(f"{SVG}svg"))
    assert len(panels) == len(ROLES) - 2
    latent, broken = panels[0], panels[-1]
    assert latent[0].text == "latent: score against training rows"
    assert latent[1].text.startswith("16: ")
    assert len(list(latent.iter(f"{SVG}polygon"))) == 1
    assert len(list(latent.iter(f"{SVG}circle"))) == 3
    assert "64: failed" in broken[1].text
    assert len(list(broken.iter(f"{SVG}circle"))) == 2
    assert not list(broken.iter(f"{SVG}polygon")), "no band across a gap"


# Pictures


def numbers_of(drawn):
    root = ElementTree.fromstring(drawn)
    names = ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height")
    found = [float(v) for e in root.iter() for k, v in e.attrib.items() if k in names]
    for each in root.iter():
        found += [float(v) for v in re.split("[ ,]", each.get("points", "")) if v]
    return found


@given(
    st.lists(st.tuples(*[st.floats(-100, 100)] * 3).map(sorted).map(tuple), min_size=1, max_size=6)
)
@settings(max_examples=40, deadline=None)
def test_forests_stay_inside(ends):
    spans = [Span("a" * 40, middle, low, high) for low, middle, high in ends]
    frame = Frame.around(spans)
    root = ElementTree.fromstring(plot(spans, "t", frame))
    for dot in root.iter("circle"):
        assert frame.names <= float(dot.get("cx")) <= frame.width
    for line in root.iter("line"):
        assert frame.names <= float(line.get("x1")) <= float(line.get("x2")) <= frame.width


def test_forests_tell_three_cases_apart_without_colour():
    spans = [Span("flat", 0, 0, 0), Span("a", -90, -99, -80), Span("b", 99, 90, 100)]
    assert [span.kind for span in spans] == ["open", "worse", "better"]
    drawn = plot(spans, "t", Frame.around(spans))
    assert [c.get("class") for c in ElementTree.fromstring(drawn).iter("circle")] == [
        "bar open", "bar worse", "bar better",
    ]  # fmt: skip
    assert "<desc>flat 0.0 [0.0, 0.0]; a −90.0 [−99.0, −80.0]; b +99.0 [+90.0, +100.0]</desc>" in (
        drawn
    )


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0, 0.0], [math.nan], [math.nan, 2.0], [-1.0, 3.0], [1.0, math.inf, 2.0, 1.0]],
)
def test_losses_of_odd_numbers(values):
    assert all(map(math.isfinite, numbers_of(losses.plot(values, "x"))))


def test_layer_maps_are_read_back_from_their_words():
    links = [LayerLink(0, (1,)), LayerLink(2, (3, 4))]
    made = LayerMap(links, 7, 5, "depth")
    assert made.described == "depth: 1→0 3+4→2 (7→5 blocks)"
    read = Drawn.read(made.described)
    assert read == Drawn("depth", (((1,), 0), ((3, 4), 2)), 7, 5)
    without = Drawn.read(str(made))
    assert (without.source_blocks, without.target_blocks) == (5, 3), "as far as the links reach"
    assert Drawn.read("something else: entirely") is None


def test_layer_maps_show_every_block_and_link():
    drawn = layers.plot(Drawn.read(MAPS["latent"]), MAPS["latent"])
    root = ElementTree.fromstring(drawn)
    assert [box.get("class") for box in root.iter("rect")] == [
        "unused", "used", "unused", "used", "unused", "used", "used", "used", "used",
    ]  # fmt: skip
    assert len(list(root.iter("line"))) == 3
    deep = layers.plot(Drawn.read(MAPS["a-strategy-with-a-rather-long-name"]), "deep")
    assert len(list(ElementTree.fromstring(deep).iter("rect"))) == 80 + 48
    labels = [t for t in ElementTree.fromstring(deep).iter("text") if t.text.isdigit()]
    places = [float(t.get("x")) for t in labels if t.get("y") == labels[0].get("y")]
    assert all(b - a > 15 for a, b in itertools.pairwise(places)), "none touches"


def test_maps_in_unknown_words_are_shown_as_text():
    found = [attrs.evolve(c, layer_map=c.layer_map and "<b> of my own") for c in cells(["arith"])]
    text = render_html(full_summary(found))
    assert "latent, a-strategy-with-a-rather-long-name, random: &lt;b&gt; of my own" in text
    strictly(text)


# Pages


def test_blocks_of_one_name_can_be_told_apart():
    blocks = [Block("Same · title", "") for _ in range(4)] + [Block("···", "")]
    found = strictly(document("t", blocks))
    names = [section.get("id") for section in found.iter(f"{XHTML}section")]
    assert names == ["same-title", "same-title-2", "same-title-3", "same-title-4", "section"]


def test_the_top_names_the_models_without_their_folders():
    pair = {"source": "/home/somebody/models/large", "target": "org/small@1a2b", "dtype": "bf16"}
    plan = {"pair": pair, "split": "dev", "packages": {"pktkit": "1.0"}}
    assert plan_line(plan) == (
        '<p class="facts">source models/large · target org/small@1a2b · bf16 · scored on dev · '
        "pktkit 1.0</p>"
    )


def test_the_plan_is_a_line_per_setting():
    plan = {"a": {"b": [1, 2], "c": None}, "d": [{"e": True}], "f": 0, "g": []}
    [block] = plan_blocks(plan)
    assert block.folded
    assert re.findall(r"<span>(.*?)</span></th><td>(.*?)</td>", block.body) == [
        ("a.b", "1, 2"), ("d[0].e", "yes"), ("f", "0"),
    ]  # fmt: skip
    assert plan_blocks({}) == []
