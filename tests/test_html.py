"""The HTML report: well-formed, self-contained, and nothing in it is taken for markup."""

from __future__ import annotations

import html.parser
import json
import math
import re
import struct
import types
import zlib

import attrs
import pytest
from test_report import example, summary_of
from tiny_transfers import pair_of, word_task

from pktkit.compare import cells as cells_module
from pktkit.compare.plan import PairSpec, Plan, choose_strategies
from pktkit.compare.run import run_comparison
from pktkit.compare.sections import contributed
from pktkit.components import Choice, Component
from pktkit.discovery.plugins import BROKEN, OK, PluginSelection, load_plugins
from pktkit.hookspecs import hookimpl
from pktkit.outcomes import Figure, ReportSection
from pktkit.pair import save_model
from pktkit.registry import Registry
from pktkit.report import RunDirectory
from pktkit.report.figures import figure_files, slug
from pktkit.report.html import render_html
from pktkit.report.losses import mean_losses
from pktkit.report.markdown import render_markdown
from pktkit.report.page import document as whole_page
from pktkit.report.page import section_block

HOSTILE = "<script>alert('x')</script> & \"quoted\" | `code` *stars*"
VOID = {"meta", "br", "img", "hr", "input", "link"}


def pixel():
    """The smallest PNG: one grey pixel."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    )


class Balanced(html.parser.HTMLParser):
    """Checks that elements nest, and collects what a browser would see."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def parsed(document):
    parser = Balanced()
    parser.feed(document)
    parser.close()
    assert parser.open == []
    return parser


def trained():
    """Cells with loss curves, one of them cut short and one not finite."""
    cells = []
    for place, cell in enumerate(example()):
        if cell.injection is not None:
            losses = {"layer": [3.0, 2.0, 1.0 + place], "cross_entropy": [1.0, math.nan, 0.5]}
            cell = attrs.evolve(cell, injection=attrs.evolve(cell.injection, losses=losses))
        cells.append(cell)
    return cells


@pytest.fixture(scope="module")
def document():
    sections = [ReportSection("More", "# Top\n\ntext\n\n| a | b |\n|:--|--:|\n| 1 | 2 |")]
    cells = trained()
    return render_html(summary_of(cells), sections, mean_losses(cells))


def test_it_is_well_formed_and_semantic(document):
    page = parsed(document)
    assert page.of("html") == [{"lang": "en"}]
    assert len(page.of("h1")) == 1
    assert len(page.of("h2")) == 3, "the verdict, one task and one section"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.of("meta")
    assert all("scope" in head for head in page.of("th"))
    assert len(page.of("table")) == 5, "claims, scores, contrasts, budgets and the section's"
    assert len([d for d in page.of("div") if d.get("class") == "scroll"]) == 5
    text = "".join(page.text)
    for words in ("latent", "naive", "Verdict", "beats the untouched target", "Holm"):
        assert words in text
    assert "prefers-color-scheme: dark" in document


def test_it_is_self_contained(document):
    assert "http://" not in document and "https://" not in document
    page = parsed(document)
    assert not page.of("script") and not page.of("link") and not page.of("iframe")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.of("img"))
    assert not re.search(r"url\(|@import", document)


def test_pictures_have_words(document):
    page = parsed(document)
    pictures = page.of("svg")
    assert {picture["role"] for picture in pictures} == {"img"}
    assert re.search(
        "<title>Forest plot of the difference to the untouched target</title>"
        r"<desc>source \+75.0 \[",
        document,
    )
    named = re.findall(r"<svg[^>]*><title>[^<]+</title><desc>[^<]+</desc>", document)
    assert len(named) == len(pictures)
    assert len(page.of("figure")) == len(page.of("figcaption")) == len(pictures)
    drawn = "".join(re.findall(r"<svg.*?</svg>", document))
    assert len(re.findall("<svg", document)) == len(pictures)
    assert "nan," not in drawn and "nan " not in drawn


@pytest.mark.parametrize("where", ["task", "strategy", "reason", "section", "figure", "plan"])
def test_hostile_text_is_shown_and_not_run(where):
    cells = example(task=HOSTILE) if where == "task" else example()
    if where == "task":
        cells = [attrs.evolve(c, key=attrs.evolve(c.key, task=HOSTILE)) for c in cells]
    roles = {}
    if where == "strategy":
        cells = [
            attrs.evolve(c, key=attrs.evolve(c.key, strategy=HOSTILE))
            if c.key.strategy == "latent"
            else c
            for c in cells
        ]
        roles = {HOSTILE: "method"}
    if where == "reason":
        cells = [attrs.evolve(c, error=HOSTILE) if c.error else c for c in cells]
    figure = Figure("a", pixel(), HOSTILE, HOSTILE) if where == "figure" else None
    sections = [ReportSection(HOSTILE, HOSTILE, [figure] if figure else [])]
    from test_report import MEANING, ROLES

    from pktkit.report import summarise

    plan = {"pair": {"source": HOSTILE, "target": "b"}} if where == "plan" else {}
    summary = summarise(cells, roles={**ROLES, **roles}, meaning=MEANING, n_boot=99, plan=plan)
    document = render_html(summary, sections if where in ("section", "figure") else ())
    found = parsed(document)
    assert not found.of("script")
    shown = "".join(found.text) + "".join(image.get("alt", "") for image in found.of("img"))
    assert "<script>alert('x')</script>" in shown
    assert "<script" not in document
    assert "<script" not in render_markdown(summary).replace("\\<", "")


@pytest.mark.parametrize(
    "markdown",
    [
        '<img src="https://example.org/x.png">',
        "![x](https://example.org/x.png)",
        '<iframe src="//example.org"></iframe>',
        "<style>@import url(//example.org/x.css)</style>",
    ],
)
def test_a_section_cannot_make_the_page_fetch_anything(markdown):
    found = parsed(section_block(ReportSection("x", markdown)).body)
    names = {name for name, _ in found.elements}
    assert not names & {"img", "iframe", "style", "script", "link"}


def test_a_link_that_runs_code_is_no_link():
    found = parsed(section_block(ReportSection("x", "[a](javascript:alert) [b](#there)")).body)
    assert [link["href"] for link in found.of("a")] == ["#there"]


def test_headings_of_a_section_stay_below_its_title():
    found = parsed(section_block(ReportSection("x", "# one\n\n## two\n\n###### six")).body)
    assert [name for name, _ in found.elements] == ["h3", "h4", "h5"], "and none is skipped"


def test_figures_are_embedded_in_html_and_linked_in_markdown(tmp_path):
    figure = Figure("map", pixel(), "a [caption]", 'an "alt"')
    sections = [ReportSection("Same · title", "text", [figure]) for _ in range(2)]
    names = [name for files in figure_files(sections) for name, _ in files]
    assert names == ["same-title-map.png", "same-title-map-2.png"]
    run = RunDirectory.create(tmp_path / "run")
    summary = summary_of(example())
    run.finish(summary, example(), sections)
    for name in names:
        assert (run.path / name).read_bytes() == pixel()
        assert f"]({name})" in (run.path / "report.md").read_text()
    found = parsed((run.path / "report.html").read_text())
    assert [image["alt"] for image in found.of("img")] == ['an "alt"'] * 2
    assert "a [caption]" in "".join(found.text)


def test_slugs():
    assert slug("Éxamplé · of α things!") == "example-of-things"
    assert slug("···") == "section"
    assert len(slug("x" * 500)) == 60


def test_losses_are_means_over_seeds():
    losses = mean_losses(trained())
    assert losses["arith", "sft"]["layer"][:2] == [3.0, 2.0]
    assert len(losses["arith", "latent"]["cross_entropy"]) == 3
    assert ("arith", "target") not in losses


def test_a_page_without_anything():
    assert parsed(whole_page(HOSTILE, [])).of("title") == [{}]
    assert parsed(render_html(summary_of([]))).of("h1") == [{}]


class Sections:
    """A plugin that contributes what it is given."""

    def __init__(self, result):
        self.result = result
        self.seen = None

    @hookimpl
    def pktkit_report_sections(self, comparison):
        self.seen = comparison
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def registry_with(**plugins):
    return Registry(load_plugins(PluginSelection(only=()), extra=plugins))


@pytest.mark.parametrize(
    "broken", [RuntimeError("on purpose"), [3], 3, [ReportSection("good", "x"), None]]
)
def test_a_failing_report_plugin_is_a_warning(tmp_path, broken, capsys):
    good = Sections([ReportSection("mine", "text")])
    registry = registry_with(bad=Sections(broken), good=good)
    run = RunDirectory.create(tmp_path / "run")
    summary = summary_of(example())
    assert [s.title for s in contributed(summary, registry, run)] == ["mine"]
    assert registry.plugins.status("bad").state == BROKEN
    assert registry.plugins.status("good").state == OK
    assert "pktkit_report_sections failed" in "".join(capsys.readouterr())
    assert good.seen.run_directory == str(run.path)
    assert "arith" in good.seen.results["scores"]


def test_one_section_may_come_without_a_list(tmp_path):
    registry = registry_with(one=Sections(ReportSection("mine", "text")))
    run = RunDirectory.create(tmp_path / "run")
    assert [s.title for s in contributed(summary_of(example()), registry, run)] == ["mine"]


def test_a_section_is_text():
    with pytest.raises(TypeError):
        ReportSection("title", None)
    with pytest.raises(TypeError):
        ReportSection("title", "text", ["figure"])


def small_task():
    return attrs.evolve(word_task(6), name="words", max_new_tokens=2)


class Everything:
    """A tiny task and a section."""

    @hookimpl
    def pktkit_tasks(self):
        return [Component("words", "test_html:small_task")]

    @hookimpl
    def pktkit_report_sections(self, comparison):
        return [ReportSection("From a plugin", "hello")]


def test_a_comparison_shows_analyses_and_sections(tmp_path, monkeypatch):
    registry = Registry(load_plugins(extra={"everything": Everything()}))
    monkeypatch.setattr(
        cells_module, "Registry", types.SimpleNamespace(discover=lambda s: registry)
    )
    pair = pair_of("llama")
    paths = [
        save_model(m, tmp_path / m.name / r) for m, r in ((pair.source, "s"), (pair.target, "t"))
    ]
    plan = Plan(
        PairSpec(*map(str, paths)),
        tuple(choose_strategies(registry, ["naive"], controls=False)),
        ("words",),
        (0,),
    )
    run = RunDirectory.create(tmp_path / "run")
    analyses = [
        Choice("attribution", {"resamples": 20}),
        Choice("cka", {"strategy": "no-such"}),
    ]
    run_comparison(plan, registry, run, jobs=0, analyses=analyses)
    found = parsed((run.path / "report.html").read_text())
    assert len(found.of("h2")) == 6, "verdict, task, two analyses, the plugin's, the run"
    assert len(found.of("img")) == 1
    text = "".join(found.text)
    assert "Attribution of the source's layers · words" in text
    assert "Failed: analysis 'cka': unknown strategy 'no-such'" in text
    assert "From a plugin" in text
    [picture] = run.path.glob("attribution*.png")
    assert f"({picture.name})" in (run.path / "report.md").read_text()
    data = json.loads((run.path / "attribution-of-the-source-s-layers-words.json").read_text())
    assert data["resamples"] == 20
