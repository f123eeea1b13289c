"""Distributions of other people: built, installed beside pktkit and run as their users would."""

import json
import shutil
from pathlib import Path

import pytest
from fresh_environments import build_wheel, fresh_environment

pytestmark = pytest.mark.timeout(900)
EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK = ("--no-controls", "--seeds", "1", "--limit", "20", "--set", "budget.steps=3")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment with both examples installed from their wheels, and nothing else."""
    environment = fresh_environment(tmp_path_factory.mktemp("third-party"))
    for name in ("pktkit-rotate", "pktkit-digits"):
        wheel = build_wheel(EXAMPLES / name, tmp_path_factory.mktemp(name))
        environment.succeed("-m", "pip", "install", "--quiet", str(wheel))
    return environment


def results(run):
    return json.loads((run / "results.json").read_text())


def test_what_they_provide_is_listed_with_their_distribution(environment):
    listed = json.loads(environment.succeed("-m", "pktkit", "plugins", "list", "--json"))
    provided = {
        (row["kind"], row["name"], row["version"])
        for row in listed["components"]
        if row["distribution"] in ("pktkit-rotate", "pktkit-digits")
    }
    assert provided == {
        ("aligner", "resistant-procrustes", "0.1.0"),
        ("strategy", "rotated", "0.1.0"),
        ("evaluator", "near-number", "0.1.0"),
        ("task", "compose-near", "0.1.0"),
        ("strategy", "steer-early", "0.1.0"),
    }
    where = environment.succeed("-c", "import pktkit_rotate; print(pktkit_rotate.__file__)")
    assert Path(where.strip()).is_relative_to(environment.path)


def test_a_recipe_mixes_their_aligner_with_our_matcher_and_injector(environment):
    """Their aligner, task, evaluator, strategy and observers in one comparison with ours."""
    recipe = environment.folder / "mine.yaml"
    shutil.copy(EXAMPLES / "pktkit-rotate" / "mine.yaml", recipe)
    strategies = f"latent,rotated,steer-early,{recipe}"
    environment.succeed(
        *("-m", "pktkit", "compare", "--strategies", strategies, "--task", "compose-near"),
        *(*QUICK, "--jobs", "0", "--out", "run"),
        PKTKIT_TRAIL="trail.jsonl",
    )
    run = environment.folder / "run"
    scores = results(run)["scores"]["compose-near"]["rows"]
    means = {row["strategy"]: row["mean"] for row in scores}
    assert set(means) == {"latent", "rotated", "steer-early", "mine", "target", "source"}
    assert not any(row["failed"] for row in scores)

    items = [json.loads(line) for line in (run / "items.jsonl").read_text().splitlines()]
    assert any(0 < item["score"] < 1 for item in items), "no item has partial credit"

    for report in ("report.md", "report.html"):
        text = (run / report).read_text()
        assert "How far off the answers are" in text
        assert "further off" in text
    assert "<td" in (run / "report.html").read_text().split("How far off the answers are")[-1]

    trail = [json.loads(line) for line in (environment.folder / "trail.jsonl").open()]
    stages = [each["stage"] for each in trail if each["strategy"] == "mine"]
    assert stages == ["match", "align", "inject"]
    assert "resistant-procrustes" in {each["summary"] for each in trail}


def test_their_own_tests_pass(environment, tmp_path):
    """With the installed wheels, not the checkout's sources."""
    for name in ("pktkit-rotate", "pktkit-digits"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(EXAMPLES / name / "tests", tmp_path / name / "tests", ignore=ignored)
    environment.succeed(
        *("-m", "pytest", "-q", "--import-mode", "importlib", "--rootdir", str(tmp_path)),
        str(tmp_path),
    )
