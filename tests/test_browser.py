"""The HTML report in a real browser, wide and narrow, light and dark, without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest
from full_report import full_document

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
)
SCHEMES = {"dark": 0, "light": 1}
WIDTHS = {"desktop": 1100, "phone": 360}
PAPER = {"light": (255, 255, 255), "dark": (20, 23, 27)}
HEIGHT = 2400

# A browser window has a least width, so that pages are looked at in frames of the width wanted.
# A frame measures itself, for the page around it may not look into a file.
MEASURE = """
<script>
const violations = [];
addEventListener("securitypolicyviolation", event => violations.push(event.violatedDirective));
addEventListener("load", () => {
  const shown = element => !element.parentElement.closest("details:not([open])");
  const sizes = selector => [...document.querySelectorAll(selector)].filter(shown).map(element => {
    const box = element.getBoundingClientRect();
    return [box.left, box.right, box.height];
  });
  parent.postMessage(JSON.stringify({
    width: innerWidth,
    page: document.documentElement.scrollWidth,
    violations,
    fetched: performance.getEntriesByType("resource").map(entry => entry.name),
    boxes: sizes(".scroll"), tables: sizes("table"), plots: sizes("figure svg"),
    words: sizes("svg text"), images: sizes("img"),
    letters: Math.min(...[...document.querySelectorAll("svg")].filter(shown).map(svg =>
      11 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)),
    loaded: [...document.images].map(image => image.naturalWidth),
  }), "*");
});
</script>
"""
FRAMES = """<!DOCTYPE html><body><script>
addEventListener("message", event => {
  document.body.append(Object.assign(document.createElement("pre"), {textContent: event.data}));
});
</script>"""


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page, a copy that measures itself, and a page that shows the copy at each width."""
    folder = tmp_path_factory.mktemp("page")
    document = full_document()
    (folder / "page.html").write_text(document)
    head = '<meta name="viewport"'
    copy = document.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    assert copy.count(head) == 1 and copy != document
    (folder / "copy.html").write_text(copy.replace(head, f"{MEASURE}{head}"))
    for name, source, widths in (
        ("measured.html", "copy.html", WIDTHS.values()),
        ("phone.html", "page.html", [WIDTHS["phone"]]),
    ):
        frames = "".join(
            f'<iframe src="{source}" width="{w}" height="{HEIGHT}" style="border:0"></iframe>'
            for w in widths
        )
        (folder / name).write_text(f"{FRAMES}{frames}</body>")
    return folder


@pytest.fixture(scope="module")
def seen(browser, folder):
    """What the browser found: by scheme, measures by width; and pictures of the page."""
    running = {}
    for scheme, number in SCHEMES.items():
        for page, options in (
            ("measured.html", ["--dump-dom", "--virtual-time-budget=4000"]),
            (
                "page.html" if scheme == "light" else "phone.html",
                [f"--screenshot={folder / scheme}.png", f"--window-size=1100,{HEIGHT}"],
            ),
        ):
            command = [
                browser,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--proxy-server=127.0.0.1:9",
                f"--blink-settings=preferredColorScheme={number}",
                f"--user-data-dir={folder / f'profile-{scheme}-{page}'}",
                *options,
                (folder / page).as_uri(),
            ]
            running[scheme, page] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
    found = {}
    for (scheme, page), process in running.items():
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
        if page == "measured.html":
            texts = re.findall("<pre>(.*?)</pre>", output.decode())
            records = [json.loads(html.unescape(text)) for text in texts]
            found[scheme] = {record["width"]: record for record in records}
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_tables_and_plots_are_seen(seen, scheme, width):
    found = seen[scheme][width]
    assert len(found["tables"]) >= 9 and len(found["plots"]) >= 30 and len(found["images"]) == 1
    for kind in ("tables", "plots", "images"):
        assert all(right - left > 100 and height > 20 for left, right, height in found[kind])
    assert found["loaded"] == [320]
    assert found["letters"] >= 8, "the smallest type of a picture, in pixels"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_only_tables_scroll_sideways(seen, scheme, width):
    found = seen[scheme][width]
    assert found["page"] <= width
    for kind in ("boxes", "plots", "words", "images"):
        assert all(left >= 0 and right <= width for left, right, _ in found[kind]), kind
    if width == WIDTHS["phone"]:
        assert any(right > width for _, right, _ in found["tables"]), "the wide ones in their box"


def test_nothing_is_asked_for(seen):
    for by_width in seen.values():
        for found in by_width.values():
            assert [each for each in found["fetched"] if not each.startswith("data:")] == []
            assert found["violations"] == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pictures_of_the_page_are_not_blank(seen, folder, scheme):
    from PIL import Image

    with Image.open(folder / f"{scheme}.png") as opened:
        width = WIDTHS["phone"] if scheme == "dark" else WIDTHS["desktop"]
        image = opened.convert("RGB").crop((10, 10, width, HEIGHT))
    colours = {colour: count for count, colour in image.getcolors(1 << 24)}
    paper = colours.get(PAPER[scheme], 0) / (image.width * image.height)
    assert 0.5 < paper < 0.97, "the page's own background, and something on it"
    blue = (0, 114, 178) if scheme == "light" else (108, 184, 238)
    assert colours.get(blue, 0) > 200, "lines and dots of the plots"
