"""Run directories: lock, resume, report, merge, reproduce, and everything that can be damaged."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import shutil

import attrs
import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from tiny_runs import arguments, cells_of, scores_of, write_pair, write_rows

from pktkit.cli import main
from pktkit.compare import run as run_module
from pktkit.compare.fingerprint import ModelPrint, file_hash
from pktkit.compare.lock import EMBEDDED, Lock, parse_lock, pinned, read_lock
from pktkit.compare.merge import merged, unlike
from pktkit.compare.plan import PairSpec, Plan, choose_strategies
from pktkit.compare.reproduce import Match, reproduction
from pktkit.compare.resume import stored_run
from pktkit.compare.workers import available_cores, default_threads
from pktkit.components import Choice, Strategy
from pktkit.errors import DoesNotFitError, UsageError
from pktkit.outcomes import CellKey, CellResult, ItemScore
from pktkit.registry import Registry
from pktkit.report.rundir import RunDirectory
from pktkit.report.schemas import SCHEMAS, schema
from pktkit.structure import differences, from_plain, to_plain
from pktkit.zoo import pair_paths

REPORTS = ("items.jsonl", "report.md", "report.html", "results.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_pair(folder)
    done = invoke(*arguments(folder, "--jobs=0", f"--out={folder / 'whole'}"))
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def run(folder, tmp_path):
    """A finished run of one's own."""
    return shutil.copytree(folder / "whole", tmp_path / "run")


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


def invoke(*line):
    return CliRunner().invoke(main, [str(word) for word in line])


def contents(path):
    """Every file of a folder with its bytes: nothing may be overwritten by a refused command."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def stored(path, lock, cells):
    """Write a run directory from a lock and cells."""
    directory = RunDirectory.create(path)
    directory.write("run.lock", lock.text())
    for cell in cells:
        directory.append_cell(cell)
    return stored_run(path)


def validated(name, record):
    """Check a record against its schema; say how to describe a field that is new."""
    found = sorted(jsonschema.Draft202012Validator(schema(name)).iter_errors(record), key=str)
    assert not found, (
        f"{name}: {found[0].message} at {list(found[0].absolute_path)}. A field that is new is "
        f"described in pktkit/report/schema/{name}.schema.json, with its type, unit and what null "
        "means, and in docs/runs.md. Raise the schema's version only where an old field changes."
    )


# The lock


def test_a_lock_is_read_back_as_it_was_written(folder, registry):
    lock = read_lock(folder / "whole")
    assert parse_lock(lock.text(), "again") == lock
    names = {strategy.name for strategy in lock.plan.strategies}
    assert names == {"naive", "latent", "target", "source"}
    # Every option is written out, those that nobody set too.
    latent = lock.plan.strategy("latent")
    options = registry.options_class("injector", latent.injector.name)
    assert set(latent.injector.options) == {field.name for field in attrs.fields(options)}
    assert lock.tasks[lock.plan.tasks[0]].budgets["naive"]["steps"] == 3
    assert not lock.changes(registry)
    assert not lock.environment_changes_now(registry)


def test_the_lock_of_the_embedded_pair_holds_no_path_of_the_machine(registry):
    plan = Plan(
        PairSpec(*map(str, pair_paths())),
        tuple(choose_strategies(registry, ["seeking", "latent"], controls=True)),
        ("compose", "arith"),
        (0, 3),
        points=("", "rows=64"),
        item_limit=5,
    )
    lock = Lock.of(plan, registry, threads=2, analyses=[Choice("cka", {"strategy": "latent"})])
    document = yaml.safe_load(lock.text())
    validated("lock", document)
    assert document["plan"]["pair"]["source"] == f"{EMBEDDED}source"
    assert str(pair_paths()[0]) not in lock.text()
    again = parse_lock(lock.text(), "again")
    assert again == lock and again.plan.pair == plan.pair
    assert again.plan.cells() == plan.cells()
    for strategy in plan.strategies:
        given = again.plan.strategy(strategy.name)
        for stage in ("matcher", "aligner", "injector"):
            if getattr(strategy, stage) is not None:
                options = getattr(given, stage).options
                assert getattr(strategy, stage).options.items() <= options.items()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema: 1", "schema: 2", "has schema 2, this pktkit reads schema 1"),
        ("schema: 1", "scheme: 1", "the key 'schema' is missing"),
        ("threads: 1", "threads: many", "threads must be a whole number, got 'many'"),
        ("  split: test", "  split: train", "must be in"),
        ("  trace: false", "  trade: false", "has no field 'trade'. Did you mean 'trace'?"),
        ("threads:", "schema: 1\nthreads:", "given twice"),
        ("plan:", "plan: {", "not YAML"),
        ("created:", "directory: x\nmade:", "is given twice"),
    ],
)
def test_damaged_locks_are_explained(run, old, new, message):
    file = run / "run.lock"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    before = contents(run)
    for line in (["compare", f"--resume={run}"], ["report", run], ["reproduce", file]):
        done = invoke(*line)
        assert done.exit_code == 2
        assert message in done.stderr and "run.lock" in done.stderr
    assert contents(run) == before


@pytest.mark.parametrize(
    ("reference", "revision", "again"),
    [
        ("org/name", "c0", "org/name@c0"),
        ("org/name@v1", "c0", "org/name@v1"),
        ("org/name/file.gguf", "c0", "org/name/file.gguf@c0"),
        ("org/base+org/adapter@v1", "c0+c1", "org/base@c0+org/adapter@v1"),
        ("org/name", "", "org/name"),
        ("./gone", "", "./gone"),
        (".", "", "."),
    ],
)
def test_hub_models_are_read_again_at_the_commit_of_the_lock(reference, revision, again):
    assert pinned(reference, revision) == again


def test_files_of_the_hub_cache_go_by_their_names(tmp_path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("c" * 40)
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / ("a" * 64)).write_bytes(b"weights")
    (blobs / ("b" * 40)).write_bytes(b"{}")
    (snapshot / "model.safetensors").symlink_to(blobs / ("a" * 64))
    (snapshot / "config.json").symlink_to(blobs / ("b" * 40))
    assert file_hash(snapshot / "model.safetensors") == "a" * 64
    assert file_hash(snapshot / "config.json") == hashlib.sha256(b"{}").hexdigest()
    (snapshot / "README.md").write_text("x")
    (snapshot / "modeling.py").write_text("x")
    found = ModelPrint.of(str(snapshot))
    assert found.revision == "c" * 40
    assert set(found.weights) == {"model.safetensors"}
    assert set(found.configuration) == {"config.json"} and not found.tokenizer
    assert set(ModelPrint.of(str(snapshot), code=True).configuration) == {
        "config.json", "modeling.py",
    }  # fmt: skip


def test_values_as_plain_data():
    strategy = Strategy("s", matcher=Choice("depth", {"blocks": (1, 2)}), placebo_of=("a",))
    assert from_plain(Strategy, to_plain(strategy), "s").placebo_of == ("a",)
    key = CellKey("s", "t", 3, "rows=8")
    assert from_plain(CellKey, to_plain(key), "key") == key
    with pytest.raises(UsageError, match=r"key\.seed must be a whole number, got 'x'"):
        from_plain(CellKey, {**to_plain(key), "seed": "x"}, "key")
    with pytest.raises(UsageError, match="field 'task' is missing"):
        from_plain(CellKey, {"strategy": "s", "seed": 1}, "key")
    with pytest.raises(UsageError, match="must be a list"):
        from_plain(tuple[int, ...], 3, "seeds")
    assert from_plain(tuple[int, str], [1, "a"], "x") == (1, "a")
    assert from_plain(int | None, None, "x") is None
    one = {"a": {"b": 1, "c": [1]}, "s": [{"name": "x", "k": 1}]}
    other = {"a": {"b": 2}, "s": [{"name": "x", "k": 2}]}
    assert differences(one, other) == [("a.b", 1, 2), ("a.c", [1], None), ("s.x.k", 1, 2)]


# Schemas


@pytest.fixture(scope="module")
def curve(folder):
    done = invoke(
        *arguments(folder, "--jobs=0", "--rows=4,8", "--seeds=1", f"--out={folder / 'curve'}")
    )
    assert done.exit_code == 0, done.output
    return folder / "curve"


@pytest.mark.parametrize("which", ["whole", "curve"])
def test_every_file_of_a_run_is_as_its_schema_says(folder, curve, which):
    run = folder / which
    validated("lock", yaml.safe_load((run / "run.lock").read_text()))
    validated("results", json.loads((run / "results.json").read_text()))
    for name in ("cell", "item"):
        for line in (run / f"{name}s.jsonl").read_text().splitlines():
            validated(name, json.loads(line))


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas_and_refuse_what_they_do_not_describe(name):
    jsonschema.Draft202012Validator.check_schema(schema(name))
    with pytest.raises(AssertionError, match=f"described in pktkit/report/schema/{name}"):
        validated(name, {"novelty": 1})


def test_an_unknown_schema():
    with pytest.raises(UsageError, match="Did you mean 'results'"):
        schema("result")


# Resume


def test_a_finished_run_is_said_to_be_finished_and_rendered_again(run):
    before = contents(run)
    done = invoke("compare", f"--resume={run}", "--format=json", "--jobs=0")
    assert done.exit_code == 0, done.output
    assert "all 8 cells are there, finished already; the report is written again" in done.stderr
    assert json.loads(done.stdout)["scores"] == scores_of(run)
    assert contents(run) == before


def test_a_run_whose_report_is_missing_gets_it(run):
    before = contents(run)
    for name in REPORTS:
        (run / name).unlink()
    done = invoke("compare", f"--resume={run / 'run.lock'}", "--jobs=0")
    assert "only the report is missing" in done.stderr
    assert contents(run) == before


def test_failed_and_missing_cells_run_again(run, folder):
    lines = (run / "cells.jsonl").read_text().splitlines(keepends=True)
    failed = json.loads(lines[2]) | {"scores": [], "injection": None, "error": "out of memory"}
    (run / "cells.jsonl").write_text("".join([*lines[:2], json.dumps(failed), "\n", *lines[3:-1]]))
    done = invoke("compare", f"--resume={run}", "--jobs=0")
    assert done.exit_code == 0, done.output
    assert "6 of 8 cells are there, 2 to run" in done.stderr
    assert scores_of(run) == scores_of(folder / "whole")
    assert cells_of(run) == cells_of(folder / "whole")
    assert len((run / "cells.jsonl").read_text().splitlines()) == 9, "append-only"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--strategies=naive", "--seeds=2"], "leave out --strategies, --seeds"),
        (["--device=cpu"], "leave out --device"),
        (["--out=elsewhere"], "leave out --out"),
    ],
)
def test_resume_takes_no_other_plan(run, more, message):
    done = invoke("compare", f"--resume={run}", *more)
    assert done.exit_code == 2
    assert message in done.stderr


def test_plugins_are_those_of_the_lock(run):
    done = invoke("--no-plugins=naive", "compare", f"--resume={run}")
    assert done.exit_code == 2 and "leave out --no-plugins" in done.stderr


def test_a_comparison_needs_strategies_or_a_run():
    done = invoke("compare")
    assert done.exit_code == 2 and "Missing option '--strategies'" in done.stderr


def test_a_lock_permits_no_foreign_code(folder, tmp_path, registry):
    lock = stored_run(folder / "whole").lock
    pair = attrs.evolve(lock.plan.pair, trust_remote_code=True)
    trusting = attrs.evolve(lock, plan=attrs.evolve(lock.plan, pair=pair))
    plan = attrs.evolve(lock.plan, tasks=("code",), item_limit=2, allow_code_execution=True)
    running = Lock.of(plan, registry, threads=1)
    for name, given, flag in (
        ("a", trusting, "--trust-remote-code"),
        ("b", running, "--allow-code-execution"),
    ):
        run = stored(tmp_path / name, given, []).path
        for line in (["compare", f"--resume={run}"], ["reproduce", run, f"--out={run}/x"]):
            done = invoke(*line)
            assert done.exit_code == 2 and flag in done.stderr, done.output
        assert not (run / "x").exists()


def cut_in_the_middle(run):
    lines = (run / "cells.jsonl").read_bytes().splitlines(keepends=True)
    (run / "cells.jsonl").write_bytes(b"".join([lines[0], lines[1][:50] + b"\n", *lines[2:]]))


def foreign_cell(run):
    lines = (run / "cells.jsonl").read_text().replace('"naive"', '"navie"')
    (run / "cells.jsonl").write_text(lines)


def other_results(run):
    (run / "results.json").write_text('{"schema_version": 7}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_in_the_middle, "cells.jsonl, line 2: not a finished cell"),
        (lambda run: (run / "cells.jsonl").write_bytes(b"\xff\xfe\n"), "cells.jsonl, line 1"),
        (lambda run: (run / "cells.jsonl").write_bytes(b"3\n"), "cells.jsonl, line 1"),
        (lambda run: (run / "cells.jsonl").unlink(), "cells.jsonl is missing"),
        (lambda run: (run / "run.lock").unlink(), "has no run.lock"),
        (foreign_cell, "strategy 'navie', seed 0 on "),
        (other_results, "results.json has schema_version 7, this pktkit writes 1"),
        (shutil.rmtree, "there is no run directory"),
    ],
)
def test_damaged_run_directories_are_explained_and_left_alone(run, damage, message):
    damage(run)
    before = contents(run) if run.exists() else {}
    for line in (["compare", f"--resume={run}"], ["report", run], ["report", run, run]):
        done = invoke(*line)
        assert done.exit_code == 2, done.output
        assert message in done.stderr
    assert (contents(run) if run.exists() else {}) == before


def test_changed_or_missing_models_and_data_are_refused(run, folder, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved, ignore=shutil.ignore_patterns("whole"))
    file = run / "run.lock"
    file.write_text(file.read_text().replace(str(folder), str(moved)))
    cells = (run / "cells.jsonl").read_text().replace(str(folder), str(moved)).splitlines(True)
    (run / "cells.jsonl").write_text("".join(cells[:3]))
    before = contents(run)

    def refused(*messages):
        for line in (["compare", f"--resume={run}"], ["reproduce", run, f"--out={tmp_path / 'x'}"]):
            done = invoke(*line)
            assert done.exit_code == 2, done.output
            assert all(message in done.stderr for message in messages), done.stderr
        assert contents(run) == before
        assert not (tmp_path / "x").exists()

    weights = moved / "source" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused("not what they were", "models.source.weights.model.safetensors: ")
    weights.write_bytes(content)
    write_rows(moved / "rows.jsonl", rows=17)
    refused("splits.test.items: 16 → 17", "splits.train.sha256")
    shutil.rmtree(moved / "target")
    refused("target model: no such model directory")


def test_one_process_at_a_time(run):
    before = contents(run)
    with (run / "cells.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for line in (["compare", f"--resume={run}", "--jobs=0"], ["report", run]):
            done = invoke(*line)
            assert done.exit_code == 2
            assert f"another process is running the cells of {run}" in done.stderr
    assert contents(run) == before


def test_a_stopped_run_says_how_to_go_on(folder, tmp_path, monkeypatch):
    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "run_cells", stopped)
    out = tmp_path / "a run"
    done = invoke(*arguments(folder, "--jobs=0", f"--out={out}"))
    assert done.exit_code == 130
    assert f"stopped  0 of 8 cells are in {out}" in done.stderr
    assert f"pktkit compare --resume '{out}'" in done.stderr
    again = invoke(*arguments(folder, "--jobs=0", f"--out={out}"))
    assert again.exit_code == 2 and "go on with the run in it" in again.stderr
    partly = invoke("report", out)
    assert "missing  8 of 8 cells have not run" in partly.stderr
    assert set(contents(out)) == {"cells.jsonl", "run.lock"}


def test_relative_paths_begin_where_the_run_was_started(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    line = [w.replace(f"{folder}/", "") for w in arguments(folder, "--jobs=0", "--seeds=1")]
    assert invoke(*line, f"--out={tmp_path / 'run'}").exit_code == 0
    monkeypatch.chdir(tmp_path)
    lines = (tmp_path / "run" / "cells.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "cells.jsonl").write_text("".join(lines[:-1]))
    done = invoke("compare", "--resume=run", "--jobs=0")
    assert done.exit_code == 0, done.output
    assert "3 of 4 cells are there" in done.stderr


def test_fewer_workers_get_no_more_threads():
    cores = available_cores()
    assert default_threads(None, cores) == default_threads(1, cores) == default_threads(0, cores)
    assert default_threads(None, 1) == cores
    assert default_threads(10 * cores, 1) == 1


# A full disk


def test_a_full_disk_names_the_file_and_keeps_the_cells(run, monkeypatch):
    directory = RunDirectory.existing(run)
    before = contents(run)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    message = r"{}.* cannot be written: No space left.*safe in cells\.jsonl.*--resume"
    with pytest.raises(DoesNotFitError, match=message.format("report.md")):
        directory.write("report.md", "new")
    cell = CellResult(CellKey("naive", "t", 0), [ItemScore("i", 1.0)])
    with pytest.raises(DoesNotFitError, match=message.format("cells.jsonl")):
        directory.append_cell(cell)
    assert contents(run) == before


# Report and merge


def test_a_report_is_written_again_without_models(run, folder, tmp_path):
    file = run / "run.lock"
    file.write_text(file.read_text().replace(str(folder), "/nowhere"))
    cells = run / "cells.jsonl"
    cells.write_text(cells.read_text().replace(str(folder), "/nowhere"))
    for name in REPORTS:
        (run / name).unlink()
    done = invoke("report", run, "--format=json")
    assert done.exit_code == 0, done.output
    assert set(REPORTS) <= set(contents(run))
    rows = [task["rows"] for task in scores_of(run).values()]
    assert rows == [task["rows"] for task in scores_of(folder / "whole").values()]
    elsewhere = invoke("report", run, f"--out={tmp_path / 'copy'}")
    assert elsewhere.exit_code == 0
    assert scores_of(tmp_path / "copy") == scores_of(run)


def parts(whole, tmp_path):
    """The same plan in three folders, each with some of the cells."""
    cells = whole.results
    return [stored(tmp_path / f"part-{i}", whole.lock, cells[i::3]) for i in range(3)]


def test_parts_of_one_plan_become_the_whole(folder, tmp_path):
    whole = stored_run(folder / "whole")
    paths = [run.path for run in parts(whole, tmp_path)]
    done = invoke("report", *paths, f"--out={tmp_path / 'all'}", "--format=json")
    assert done.exit_code == 0, done.output
    assert scores_of(tmp_path / "all") == scores_of(folder / "whole")
    assert read_lock(tmp_path / "all") == whole.lock
    two = invoke("report", *paths[:2])
    assert "3 of 8 cells are in none of the runs" not in two.stderr
    assert "2 of 8 cells are in none of the runs" in two.stderr


def test_a_part_is_resumed_as_a_part_and_merged(folder, tmp_path):
    whole = stored_run(folder / "whole")
    paths = []
    for number in (1, 2):
        lock = attrs.evolve(whole.lock, part=f"{number}/2")
        cells = [whole.cells[key] for key in lock.cells]
        paths.append(stored(tmp_path / str(number), lock, cells[number - 1 :]).path)
    done = invoke("compare", f"--resume={paths[1]}", "--jobs=0")
    assert done.exit_code == 0, done.output
    assert "3 of 4 cells are there, 1 to run" in done.stderr
    assert "part     2/2: 4 of 8 cells" in done.stdout
    assert not (paths[1] / "results.json").exists()
    alone = invoke("report", paths[1])
    assert "part     2/2 of a comparison" in alone.stderr
    assert not (paths[1] / "results.json").exists()
    assert invoke("report", *paths, f"--out={tmp_path / 'all'}").exit_code == 0
    assert scores_of(tmp_path / "all") == scores_of(folder / "whole")
    assert read_lock(tmp_path / "all").part == ""


def test_repeats_and_tests_of_differences_may_differ(folder, tmp_path):
    whole = stored_run(folder / "whole")
    plan = attrs.evolve(whole.lock.plan, repeats=1)
    plan = attrs.evolve(plan, evidence=attrs.evolve(plan.evidence, alpha=0.1))
    lock = attrs.evolve(whole.lock, plan=plan)
    again = [
        attrs.evolve(cell, key=attrs.evolve(cell.key, repeat=1))
        for cell in whole.results
        if cell.key.seed == 0
    ]
    other = stored(tmp_path / "repeated", lock, [*whole.results, *again])
    found, results = merged([whole, other])
    assert found.plan.repeats == 1 and len(results) == 12
    assert found.plan.evidence == whole.lock.plan.evidence
    done = invoke("report", whole.path, other.path)
    assert done.exit_code == 0 and "evidence.alpha: 0.05 → 0.1" in done.stderr
    validated("results", json.loads(invoke("report", other.path, "--format=json").stdout))
    for line in (other.path / "items.jsonl").read_text().splitlines()[-1:]:
        validated("item", json.loads(line))


def test_runs_of_other_seeds_and_strategies_are_merged(folder, tmp_path):
    whole = stored_run(folder / "whole")
    plan = whole.lock.plan

    def of(name, strategies, seeds):
        kept = tuple(s for s in plan.strategies if s.name in strategies)
        lock = attrs.evolve(whole.lock, plan=attrs.evolve(plan, strategies=kept, seeds=seeds))
        keys = lock.plan.cells()
        cells = [whole.cells[attrs.evolve(key, seed=0)] if key not in whole.cells else
                 whole.cells[key] for key in keys]  # fmt: skip
        cells = [attrs.evolve(cell, key=key) for cell, key in zip(cells, keys, strict=True)]
        return stored(tmp_path / name, lock, cells)

    runs = [
        of("a", ("naive", "target", "source"), (0,)),
        of("b", ("naive", "target", "source"), (1, 2)),
        of("c", ("latent", "target", "source"), (0, 1, 2)),
    ]
    lock, results = merged(runs)
    assert lock.plan.seeds == (0, 1, 2)
    assert {cell.key for cell in results} == set(plan.cells())
    assert {cell.key: cell.scores for cell in results} == {
        cell.key: cell.scores for cell in whole.results
    }


def test_points_of_a_curve_are_merged(curve, tmp_path):
    run = stored_run(curve)
    halves = []
    for point in run.lock.plan.points:
        lock = attrs.evolve(run.lock, plan=attrs.evolve(run.lock.plan, points=(point,)))
        cells = [cell for cell in run.results if cell.key in lock.cells]
        halves.append(stored(tmp_path / point, lock, cells).path)
    done = invoke("report", *halves, f"--out={tmp_path / 'both'}")
    assert done.exit_code == 0, done.output
    assert scores_of(tmp_path / "both") == scores_of(curve)
    document = json.loads((tmp_path / "both" / "results.json").read_text())
    assert document["curves"] == json.loads((curve / "results.json").read_text())["curves"]
    assert len(document["curves"]) == 4


def test_a_failed_cell_gives_way_to_one_that_did_not(folder, tmp_path):
    whole = stored_run(folder / "whole")
    failed = [attrs.evolve(cell, scores=(), error="no memory") for cell in whole.results]
    other = stored(tmp_path / "failed", whole.lock, failed)
    for runs in ([whole, other], [other, whole]):
        assert merged(runs)[1] == whole.results


def test_other_scores_of_one_cell_are_refused(folder, tmp_path):
    whole = stored_run(folder / "whole")
    *cells, last = whole.results
    flipped = [attrs.evolve(score, score=1 - score.score) for score in last.scores]
    environment = attrs.evolve(whole.lock.environment, python="3.99")
    lock = attrs.evolve(whole.lock, environment=environment)
    other = stored(tmp_path / "other", lock, [*cells, attrs.evolve(last, scores=flipped)])
    done = invoke("report", whole.path, other.path)
    assert done.exit_code == 2
    assert "strategy 'latent', seed 2 on " in done.stderr and "16 of 16 items" in done.stderr
    assert "python: " in done.stderr and "3.99" in done.stderr
    same = invoke("report", whole.path, stored(tmp_path / "same", lock, cells).path)
    assert same.exit_code == 0 and "differs " in same.stderr


def test_unlike_protocols_are_not_ranked(folder, tmp_path):
    lock = stored_run(folder / "whole").lock
    task = lock.plan.tasks[0]

    def with_plan(**changes):
        return attrs.evolve(lock, plan=attrs.evolve(lock.plan, **changes))

    def with_task(**changes):
        return attrs.evolve(lock, tasks={task: attrs.evolve(lock.tasks[task], **changes)})

    def with_budget(**changes):
        budgets = lock.tasks[task].budgets
        return with_task(budgets={name: {**each, **changes} for name, each in budgets.items()})

    short = attrs.evolve(lock.plan.settings, max_length=9)
    model = attrs.evolve(lock.models["source"], weights={"model.safetensors": "0" * 64})
    splits = lock.tasks[task].splits
    items = {**splits, "test": attrs.evolve(splits["test"], sha256="1" * 64)}
    naive = attrs.evolve(lock.plan.strategy("naive"), injector=Choice("overwrite", {"strength": 2}))
    unequal = {
        "plan.split": with_plan(split="dev"),
        "plan.item_limit": with_plan(item_limit=3),
        "plan.settings.max_length": with_plan(settings=short),
        "plan.pair.dtype": with_plan(pair=attrs.evolve(lock.plan.pair, dtype="bfloat16")),
        "models.source.weights": attrs.evolve(lock, models={**lock.models, "source": model}),
        f"tasks.{task}.splits.test.sha256": with_task(splits=items),
        f"tasks.{task}.template": with_task(template="tulu"),
        f"tasks.{task}.evaluator": with_task(evaluator=Choice("exact-match")),
        f"tasks.{task}.budget.steps": with_budget(steps=7),
        "strategies.naive.injector.strength": with_plan(strategies=(naive,)),
    }  # fmt: skip
    for field, other in unequal.items():
        [line] = unlike(lock, other)
        assert line.startswith(field), line
    alike = [
        with_plan(pair=attrs.evolve(lock.plan.pair, source="/elsewhere", device="cuda")),
        with_plan(seeds=(5,)),
        with_budget(learning_rate=0.5),
        attrs.evolve(lock, threads=7),
    ]
    assert not any(unlike(lock, other) for other in alike)
    other = stored(tmp_path / "dev", unequal["plan.split"], [])
    done = invoke("report", folder / "whole", other.path, f"--out={tmp_path / 'out'}")
    assert done.exit_code == 2
    assert "not made under one protocol" in done.stderr
    assert "plan.split: test → dev" in done.stderr
    assert not (tmp_path / "out").exists()


# Reproduce


def test_a_run_is_reproduced_bit_for_bit(folder, tmp_path):
    before = contents(folder / "whole")
    out = tmp_path / "again"
    done = invoke("reproduce", folder / "whole" / "run.lock", f"--out={out}", "--jobs=0")
    assert done.exit_code == 0, done.output
    assert "of 4 rows: 4 bit for bit" in done.stdout
    assert scores_of(out) == scores_of(folder / "whole")
    assert contents(folder / "whole") == before
    document = json.loads((out / "reproduction.json").read_text())
    validated("reproduction", document)
    assert document["reproduced"] and not document["changes"]


def changed(cells, strategy, flips):
    """Flip the scores of the first items of every seed of a strategy."""

    def flipped(cell):
        scores = [
            attrs.evolve(score, score=1 - score.score if place < flips else score.score)
            for place, score in enumerate(cell.scores)
        ]
        return attrs.evolve(cell, scores=scores)

    return {k: flipped(c) if k.strategy == strategy else c for k, c in cells.items()}


def test_numbers_that_do_not_match_are_explained(folder):
    whole = stored_run(folder / "whole")
    newer = attrs.evolve(whole.lock.environment, packages={"torch": "9.9"})
    again = attrs.evolve(whole.lock, environment=newer)
    cells = changed(whole.cells, "latent", 16)
    found = reproduction(whole.lock, whole.cells, cells, again=again, tolerance=0.5)
    matches = {row.strategy: row.match for row in found.rows}
    means = {row.strategy: (row.first, row.second) for row in found.rows}
    assert matches["naive"] is matches["target"] is Match.SAME
    assert matches["latent"] is Match.DIFFERENT
    assert means["latent"][0] == pytest.approx(100 - means["latent"][1])
    assert not found.reproduced
    assert any("packages.torch" in reason and "9.9" in reason for reason in found.reasons)
    validated("reproduction", found.document())
    close = reproduction(whole.lock, whole.cells, cells, again=again, tolerance=100)
    assert {row.match for row in close.rows} == {Match.SAME, Match.WITHIN}
    assert close.reproduced and close.reasons
    alike = reproduction(whole.lock, whole.cells, cells, again=whole.lock)
    assert "without a fixed order" in alike.reasons[0]


def test_failed_and_absent_cells_of_a_reproduction(folder):
    whole = stored_run(folder / "whole")
    broken = {
        key: attrs.evolve(cell, scores=(), error="no\nmemory") if key.strategy == "naive" else cell
        for key, cell in whole.cells.items()
    }
    partly = {key: cell for key, cell in broken.items() if key.strategy != "latent"}
    both = reproduction(whole.lock, partly, broken, again=whole.lock)
    matches = {row.strategy: row.match for row in both.rows}
    assert matches["naive"] is Match.FAILED and matches["latent"] is Match.ABSENT
    assert both.reproduced
    once = reproduction(whole.lock, whole.cells, broken, again=whole.lock)
    row = next(row for row in once.rows if row.strategy == "naive")
    assert row.match is Match.DIFFERENT and row.reason == "no memory" and row.second is None


def test_a_lock_alone_is_run_without_a_comparison(folder, tmp_path):
    lock = read_lock(folder / "whole")
    plan = attrs.evolve(
        lock.plan,
        seeds=(0,),
        strategies=(lock.plan.strategy("naive"), lock.plan.strategy("target")),
    )
    [(name, task)] = lock.tasks.items()
    task = attrs.evolve(task, budgets={"naive": task.budgets["naive"]})
    alone = attrs.evolve(lock, plan=plan, tasks={name: task})
    (tmp_path / "run.lock").write_text(alone.text())
    done = invoke("reproduce", tmp_path / "run.lock", "--jobs=0", f"--out={tmp_path / 'again'}")
    assert done.exit_code == 0, done.output
    assert "no cells.jsonl beside" in done.stderr
    assert (tmp_path / "again" / "results.json").exists()
