"""The cache of readings: never a wrong hit, never above its limit, never in the way."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time

import attrs
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tiny_transfers import SOURCE, pair_of, word_task

from pktkit.cache import Address, ReadingCache
from pktkit.cache.address import code_of
from pktkit.cache.directory import TAG, CacheDirectory
from pktkit.cache.entries import MANIFEST, EntryWriter, read_manifest
from pktkit.cli import main
from pktkit.cli.units import AGE, SIZE, shown_age, shown_size
from pktkit.errors import StrategyError, UsageError
from pktkit.pair import ModelPair
from pktkit.probe import Probe, ProbeSettings
from pktkit.testing import tiny_loaded
from pktkit.values import Origin

ONE = {"a": torch.ones(3)}


class Spy(ReadingCache):
    """Notes what it is asked for."""

    def shards(self, address, produce):
        self.asked = [*getattr(self, "asked", []), address]
        return super().shards(address, produce)


def asked(pair, task=None, settings=None, **origin):
    """Return the addresses of every kind of reading of a pair."""
    spy = Spy()
    probe = Probe(pair, task or word_task(), settings=settings, cache=spy)
    probe.states("train", [0], **origin)
    if not origin:
        probe.attribution("train"), probe.sensitivities("train"), probe.answered
    return {address.what["reading"]: address for address in spy.asked}


def with_source(pair, model):
    return ModelPair(model, pair.target)


def retokenized(model):
    """Return a model whose tokenizer has the same tokens but lowers the text first."""
    from tokenizers import normalizers

    other = tiny_loaded("llama").tokenizer
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert other.get_vocab() == model.tokenizer.get_vocab()
    return attrs.evolve(model, tokenizer=other)


def changed(model, change):
    change(model.model)
    return model


@pytest.fixture(scope="module")
def base():
    pair = pair_of("llama")
    return pair, asked(pair)


OTHER_SOURCES = {
    "weights": lambda: tiny_loaded("llama", seed=9, **SOURCE),
    "one weight": lambda: changed(
        pair_of("llama").source, lambda m: m.model.layers[3].mlp.up_proj.weight[5].add_(1)
    ),
    "tokenizer": lambda: retokenized(pair_of("llama").source),
    "dtype": lambda: changed(pair_of("llama").source, lambda m: m.to(torch.bfloat16)),
    "depth": lambda: tiny_loaded("llama", seed=1, **(SOURCE | {"blocks": 3})),
    "configuration": lambda: changed(
        pair_of("llama").source, lambda m: setattr(m.config, "rms_norm_eps", 0.5)
    ),
    "buffers": lambda: changed(
        pair_of("llama").source, lambda m: m.register_buffer("scale", torch.ones(1))
    ),
}


@pytest.mark.parametrize("part", OTHER_SOURCES)
def test_another_source_of_equal_shape_is_another_reading_of_every_kind(base, part):
    pair, before = base
    now = asked(with_source(pair, OTHER_SOURCES[part]()))
    assert now.keys() == before.keys() == {"forward", "attribution", "sensitivity", "answers"}
    for kind in before:
        assert now[kind].key != before[kind].key, (part, kind)
        assert now[kind].meaning != before[kind].meaning, (part, kind)


def other_rows():
    task = word_task()
    items = tuple(attrs.evolve(item, prompt=f"t3 {item.prompt}") for item in task.items("train"))
    return attrs.evolve(task, splits={**task.splits, "train": items})


OTHER_DATA = {
    "rows": (other_rows(), None),
    "fewer rows": (None, ProbeSettings(row_limit=3)),
    "template": (attrs.evolve(word_task(), template="tulu"), None),
}


@pytest.mark.parametrize("part", OTHER_DATA)
def test_other_data_is_another_reading_of_every_kind(base, part):
    pair, before = base
    task, limits = OTHER_DATA[part]
    now = asked(pair, task, limits)
    assert all(now[kind].key != before[kind].key for kind in before)


@pytest.mark.parametrize(
    ("limits", "same_meaning"),
    [({"max_length": 5}, False), ({"state_dtype": "bfloat16"}, False), ({"batch_size": 2}, True)],
)
def test_settings_that_change_a_bit_of_the_states_are_another_reading(base, limits, same_meaning):
    pair, before = base
    now = asked(pair, settings=ProbeSettings(**limits))
    assert now["forward"].key != before["forward"].key
    assert (now["forward"].meaning == before["forward"].meaning) == same_meaning


def test_other_layers_or_logits_are_another_reading():
    spy = Spy()
    probe = Probe(pair_of("llama"), word_task(), cache=spy)
    for blocks, logits in (([0, 1], False), ([0, 2], False), ([0, 1], True)):
        probe.forward_exactly("train", Origin.SOURCE, blocks=blocks, logits=logits)
    assert len({address.key for address in spy.asked}) == 3


@pytest.mark.parametrize("part", ["reading_code", "library_versions"])
def test_other_code_is_another_reading(base, part, monkeypatch):
    pair, before = base
    monkeypatch.setattr(f"pktkit.probe.kept.{part}", lambda: "other")
    now = asked(pair)
    assert all(now[kind].key != before[kind].key for kind in before)
    assert all(now[kind].meaning == before[kind].meaning for kind in before)


def test_the_same_pair_again_has_the_same_addresses(base):
    again = asked(pair_of("llama"))
    assert {k: a.key for k, a in again.items()} == {k: a.key for k, a in base[1].items()}


def test_source_and_target_are_told_apart(base):
    pair, before = base
    assert asked(pair, origin=Origin.TARGET)["forward"].key != before["forward"].key


def test_a_target_that_was_changed_is_never_stored_as_what_it_was(tmp_path):
    pair = pair_of("llama")
    probe = Probe(pair, word_task(), cache=ReadingCache(tmp_path))
    with torch.no_grad():
        pair.target.anatomy.head_weight[0, 0] += 1
    with pytest.raises(StrategyError, match="after it was changed"):
        probe.states("train", [0], origin=Origin.TARGET)
    assert not CacheDirectory(tmp_path).entries()


def test_what_plugins_derive_is_addressed_by_their_code_too(tmp_path):
    found = []
    for number, text in enumerate(("return {}", "return {}", "return {1: 2}")):
        path = tmp_path / f"derived_{number // 1}_{len(text)}.py"
        path.write_text(f"def compute():\n    {text}\n")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        found.append(code_of(module.compute))
        found.append(code_of(module.compute))
        del sys.modules[path.stem]
    assert found[0] == found[1] and found[4] == found[5]
    assert len(set(found)) == 3
    unknown = eval("lambda: {}", {"__name__": "nowhere"})
    assert code_of(unknown) != code_of(unknown), "code without a text is never taken for known"


def address(number=0, **about):
    return Address(what={"reading": "forward", "logits": False, "number": number}, about=about)


def stored(directory, number=0, size=3, limit=None):
    """Store a reading of `size` numbers, all equal to `number`, and return it."""
    cache = ReadingCache(directory, limit)
    return cache.get(address(number), lambda: {"a": torch.full((size,), float(number))})


def folder(directory, number=0):
    return directory / address(number).key


def truncate(path):
    os.truncate(path / "shard-00000.safetensors", 40)


def flip(path):
    shard = path / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def rename(path):
    """Put another complete reading in its place."""
    stored(path.parent, 7)
    path.rename(path.with_suffix(".away"))
    folder(path.parent, 7).rename(path)


DAMAGES = {
    "truncated": (truncate, "has 40 bytes"),
    "one bit": (flip, "does not hold what was written"),
    "a shard is gone": (lambda path: (path / "shard-00000.safetensors").unlink(), "missing"),
    "no manifest": (lambda path: (path / MANIFEST).unlink(), f"no {MANIFEST}"),
    "no JSON": (lambda path: (path / MANIFEST).write_text("{"), "cannot be read"),
    "a list": (lambda path: (path / MANIFEST).write_text("[]"), "cannot be read"),
    "another version": (lambda path: (path / MANIFEST).write_text("{}"), "another version"),
    "another reading": (rename, "another reading"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_reading_is_taken_again_and_said(tmp_path, damage):
    change, reason = DAMAGES[damage]
    stored(tmp_path, 3)
    change(folder(tmp_path, 3))
    with capture_logs() as logs:
        assert stored(tmp_path, 3)["a"].tolist() == [3.0] * 3
    assert [line["log_level"] for line in logs] == ["warning"] and reason in logs[0]["reason"]
    with capture_logs() as logs:
        again = ReadingCache(tmp_path).get(address(3), lambda: pytest.fail("taken a third time"))
    assert again["a"].tolist() == [3.0] * 3 and not logs


def test_an_entry_says_in_the_clear_what_it_is(tmp_path):
    Probe(pair_of("llama"), word_task(), cache=ReadingCache(tmp_path)).states("train", [0])
    (entry,) = CacheDirectory(tmp_path).entries()
    document = json.loads((entry.folder / MANIFEST).read_text())
    assert document["what"]["layers"] == [-1, 0, 1, 2, 3]
    assert set(document["what"]["model"]) == {"weights", "buffers", "config"}
    assert document["what"].keys() >= {"tokenizer", "data", "dtype", "state_dtype", "logits"}
    assert document["how"].keys() >= {"code", "libraries", "device", "batch_size"}
    assert document["about"] == {"model": "llama", "task": "words", "split": "train", "rows": 6}
    assert entry.manifest.address.key == entry.folder.name


def test_a_reading_that_fails_half_way_leaves_nothing(tmp_path):
    def produce():
        yield {"a": torch.zeros(2)}
        raise RuntimeError("the model failed")

    cache = ReadingCache(tmp_path)
    with pytest.raises(RuntimeError, match="the model failed"):
        cache.shards(address(), produce)
    assert {path.name for path in tmp_path.iterdir()} <= {TAG, f"{address().key}.lock"}
    assert cache.directory == tmp_path, "the disk is not to blame"
    assert torch.equal(cache.shards(address(), lambda: [ONE])[0]["a"], ONE["a"])


SIZE_OF_ONE = 40_000
"""Bytes of a reading of 10 000 numbers, to within its overhead."""


def numbers_in(directory):
    entries = CacheDirectory(directory).entries()
    return {entry.manifest.address.what["number"] for entry in entries}


def test_the_least_recently_used_reading_leaves_first(tmp_path):
    limit = 3 * SIZE_OF_ONE + 30_000
    for number in range(3):
        stored(tmp_path, number, 10_000, limit)
        os.utime(folder(tmp_path, number) / MANIFEST, (1000 + number, 1000 + number))
    kept = stored(tmp_path, 1, 10_000, limit)
    stored(tmp_path, 0, 10_000, limit)
    stored(tmp_path, 3, 10_000, limit)
    assert numbers_in(tmp_path) == {0, 1, 3}
    os.utime(folder(tmp_path, 1) / MANIFEST, (2000, 2000))
    stored(tmp_path, 4, 10_000, limit)
    assert numbers_in(tmp_path) == {0, 3, 4}
    assert float(kept["a"].sum()) == 10_000, "what was read in outlives its files"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 8)), min_size=1, max_size=12))
def test_the_limit_holds_after_every_reading(tmp_path_factory, sequence):
    directory, limit = tmp_path_factory.mktemp("cache"), 100_000
    for number, size in sequence:
        values = torch.full((4000 * size,), float(number))
        found = ReadingCache(directory, limit).shards(
            Address(what={"number": number, "size": size}),
            lambda values=values: [{"a": part} for part in values.split(4000)],
        )
        assert torch.equal(torch.cat([shard["a"] for shard in found]), values)
        assert CacheDirectory(directory).size() <= limit
        assert not list(directory.glob("*.part"))


def test_a_reading_larger_than_the_limit_is_kept_in_memory(tmp_path):
    stored(tmp_path, 1)
    calls = []
    cache = ReadingCache(tmp_path, 50_000)
    large = lambda: calls.append(1) or [{"a": torch.ones(5000)} for _ in range(4)]  # noqa: E731
    assert len(cache.shards(address(2), large)) == 4
    assert len(cache.shards(address(2), large)) == 4 and len(calls) == 1
    assert numbers_in(tmp_path) <= {1} and cache.directory == tmp_path


def test_states_larger_than_the_limit_are_computed_when_asked_for(tmp_path):
    probe = Probe(pair_of("llama"), word_task(), cache=ReadingCache(tmp_path, 1000))
    reader = probe.states("train", [0])
    assert reader.stored is None and not CacheDirectory(tmp_path).entries()
    kept = Probe(pair_of("llama"), word_task()).states("train", [0]).read([0, 3])
    torch.testing.assert_close(reader.read([0, 3])[0], kept[0], rtol=1e-4, atol=1e-5)


def test_a_reading_that_another_process_holds_is_neither_evicted_nor_cleared(tmp_path):
    stored(tmp_path, 0, 10_000)
    directory = CacheDirectory(tmp_path)
    with FileLock(f"{folder(tmp_path, 0)}.lock"):
        assert not directory.make_room(1000, 30_000)
        cleared = directory.clear()
    assert cleared.busy == 1 and cleared.entries == 0 and numbers_in(tmp_path) == {0}
    assert directory.make_room(1000, 30_000) and not directory.entries()


HAMMER = """
import pathlib, random, sys
import torch
from pktkit.cache import Address, ReadingCache
seed, directory = int(sys.argv[1]), pathlib.Path(sys.argv[2])
choose, produced = random.Random(seed), 0
for step in range(150):
    number = choose.randrange(8)
    def produce():
        global produced
        produced += 1
        for part in range(3):
            yield {"a": torch.full((4000,), float(10 * number + part))}
    address = Address(what={"number": number})
    shards = ReadingCache(directory, 250_000).shards(address, produce)
    assert [s["a"].unique().tolist() for s in shards] == [[10.0 * number + p] for p in range(3)]
print(produced)
"""


def test_two_processes_share_a_cache_that_is_too_small_for_both(tmp_path):
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(seed), str(tmp_path / "cache")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    outcomes = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outcomes
    assert all(int(out) < 150 for out, _ in outcomes), "some were found on disk"
    assert not any("warning" in out + err for out, err in outcomes), outcomes
    directory = CacheDirectory(tmp_path / "cache")
    assert 0 < directory.size() <= 250_000
    assert not list(directory.path.glob("*.part")) and not directory.foreign()
    assert all(entry.manifest is not None for entry in directory.entries())


def test_a_full_disk_is_said_once_and_loses_nothing(tmp_path, monkeypatch):
    add, calls = EntryWriter.add, []

    def full(self, tensors):
        if len(self._shards) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, tensors)

    monkeypatch.setattr(EntryWriter, "add", full)
    cache = ReadingCache(tmp_path)

    def produce():
        for value in (1.0, 2.0, 3.0):
            calls.append(value)
            yield {"a": torch.full((3,), value)}

    with capture_logs() as logs:
        shards = cache.shards(address(1), produce)
        cache.shards(address(2), produce)
        ReadingCache(tmp_path).shards(address(3), produce)
    assert [float(shard["a"][0]) for shard in shards] == [1.0, 2.0, 3.0]
    assert calls == [1.0, 2.0, 3.0] * 3, "nothing was read twice"
    assert len(logs) == 1 and "No space left" in logs[0]["reason"]
    assert "going on without it" in logs[0]["event"] and not CacheDirectory(tmp_path).entries()
    assert not list(tmp_path.glob("*.part"))


def test_an_unusable_cache_directory_is_given_up(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a directory")
    with capture_logs() as logs:
        probe = Probe(pair_of("llama"), word_task(), cache=ReadingCache(file / "below"))
        assert probe.states("train", [0]).read([0])[0].shape[1] == 48
    assert len(logs) == 1


COMPARE = (
    "compare", "--strategies", "sft,kd", "--no-controls", "--task", "compose", "--limit", "10",
    "--seeds", "1", "--set", "budget.steps=2", "--set", "budget.rows=8", "--jobs", "2",
)  # fmt: skip


def run(*arguments, **options):
    command = [sys.executable, "-m", "pktkit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_workers_go_on_when_the_disk_does_not_take_a_file_and_say_so(tmp_path):
    """Files above a size are refused, as on a full disk, in the workers too."""
    done = run(
        *COMPARE, "--cache", tmp_path / "cache", "--out", tmp_path / "run",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 1 <= done.stderr.count("cannot be written to, going on without it") <= 2
    assert "cannot be written" not in done.stdout and "verdict" in done.stdout
    assert not CacheDirectory(tmp_path / "cache").entries()


def invoke(*arguments, **environment):
    return CliRunner().invoke(main, [*map(str, arguments)], env=environment)


def test_a_cache_that_cannot_be_written_is_said_once_per_run(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    below = str(tmp_path / "file" / "below")
    done = invoke(*COMPARE, "--jobs", "0", "--out", tmp_path / "run", PKTKIT_CACHE=below)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("cannot be written to, going on without it") == 1
    assert "cannot be written" not in done.stdout and "verdict" in done.stdout


@pytest.fixture
def filled(tmp_path):
    """A cache of three readings, one of them old, one damaged."""
    for number in range(3):
        cache = ReadingCache(tmp_path)
        cache.get(address(number, model="big", task="arith", split="train", rows=5), lambda: ONE)
    os.utime(folder(tmp_path, 1) / MANIFEST, (time.time() - 10 * 86400,) * 2)
    (folder(tmp_path, 2) / MANIFEST).write_text("{")
    return tmp_path


def test_info_tells_what_is_kept(filled):
    found = invoke("cache", "info", "--cache", filled)
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[0].split() == ["reading", "of", "task", "split", "rows", "size", "used", "key"]
    assert sum("states" in line and "big" in line and "arith" in line for line in lines) == 2
    assert (
        "10d ago" in found.output and "unusable: its manifest.json cannot be read" in found.output
    )
    assert lines[-1].endswith("limit 20GB") and "3 readings" in lines[-1]
    plain = invoke("cache", "info", "--format", "json", PKTKIT_CACHE=str(filled))
    document = json.loads(plain.output)
    assert document["limit"] == 20_000_000_000 and document["foreign"] == []
    assert document["bytes"] == sum(entry["bytes"] for entry in document["readings"])
    whole = [entry for entry in document["readings"] if entry["usable"]]
    assert {entry["what"]["number"] for entry in whole} == {0, 1}
    unlimited = invoke("cache", "info", "--cache", filled, PKTKIT_CACHE_LIMIT="none")
    assert unlimited.output.rstrip().endswith("limit none")


def test_clear_removes_what_is_ours_and_says_how_much(filled):
    old = invoke("cache", "clear", "--cache", filled, "--older-than", "7d")
    assert old.exit_code == 0 and old.output.startswith("removed 1 readings")
    assert "kept 2 used since" in old.output
    (filled / f"{'0' * 64}.1a.part").mkdir()
    (filled / f"{'1' * 64}.lock").touch()
    done = invoke("cache", "clear", "--cache", filled)
    assert "removed 2 readings" in done.output and "leftovers of stopped runs" in done.output
    assert [path.name for path in filled.iterdir()] == [TAG]


def test_clear_refuses_what_is_not_ours(filled):
    (filled / "thesis.tex").write_text("years of work")
    done = invoke("cache", "clear", "--cache", filled)
    assert done.exit_code == 2 and "thesis.tex" in done.output
    assert len(CacheDirectory(filled).entries()) == 3
    with pytest.raises(UsageError, match="nothing was removed"):
        CacheDirectory(filled).clear()


def test_a_directory_that_holds_other_things_is_not_marked_as_a_cache(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    stored(tmp_path)
    assert not (tmp_path / TAG).exists()
    stored(tmp_path / "new")
    assert (tmp_path / "new" / TAG).read_text().startswith("Signature: 8a477f597d28d172789f0688")


def test_commands_without_a_cache_say_what_to_type(tmp_path):
    for command in ("info", "clear"):
        none = invoke("cache", command)
        assert none.exit_code == 2 and "PKTKIT_CACHE" in none.output
        absent = invoke("cache", command, "--cache", tmp_path / "none")
        assert absent.exit_code == 2 and "no directory" in absent.output


def test_leftovers_of_a_process_that_died_are_removed_when_it_is_taken_again(tmp_path):
    (tmp_path / f"{address().key}.7f.part").mkdir(parents=True)
    stored(tmp_path)
    assert not list(tmp_path.glob("*.part")) and numbers_in(tmp_path) == {0}
    assert read_manifest(folder(tmp_path)).bytes > 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20 * 10**9), ("1.5 mb", 1_500_000), ("2KiB", 2048), ("7", 7), ("none", None)],
)
def test_sizes_are_read(text, size):
    assert SIZE.convert(text, None, None) == size


def test_units_round_trip_and_are_refused_with_an_example():
    assert [shown_size(n) for n in (0, 999, 1000, 1_500_000, 20e9, 3e12)] == [
        "0B", "999B", "1KB", "1.5MB", "20GB", "3TB",
    ]  # fmt: skip
    assert AGE.convert("7d", None, None) == 7 * 86400
    assert [shown_age(s) for s in (5, 300, 10 * 86400, 86400 * 30)] == ["5s", "5m", "10d", "4w"]
    done = invoke("cache", "info", "--cache-limit", "much")
    assert done.exit_code == 2 and "20GB or none" in done.output
