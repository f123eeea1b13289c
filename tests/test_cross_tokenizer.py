"""A source with another tokenizer is read beside the target, and never knows more of the answer."""

from __future__ import annotations

import itertools

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vocabulary import KINDS, loaded, pair_with
from tiny_tokenizers import byte_level, kinds
from tiny_transfers import data_for, pair_of, same_bits, snapshot, word_task

from pktkit.compare import cells as cells_module
from pktkit.compare.cells import CellRunner
from pktkit.compare.plan import PairSpec, Plan, choose_strategies
from pktkit.discovery.plugins import load_plugins
from pktkit.encoding import encode_item, encode_split, template
from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.journal import Journal
from pktkit.outcomes import CellKey
from pktkit.pair import ModelPair
from pktkit.probe import Probe, ProbeSettings
from pktkit.probe.positions import align_positions
from pktkit.probe.rows import PairRows
from pktkit.probe.spans import TextReader, byte_ends
from pktkit.registry import Registry
from pktkit.tasks.base import SPLITS, Item
from pktkit.values import Interface
from pktkit.vocabulary import surfaces
from pktkit_latent.aligners.semantic import SemanticAligner, SemanticOptions
from pktkit_latent.injectors import AllBlocksInjector, AllBlocksOptions
from pktkit_latent.matchers import DepthMatcher, DepthOptions

WHOLE = ("byte-level", "byte-level-trimmed", "bare", "sentencepiece")
"""Kinds whose surfaces put together are the text itself."""

WORDS = st.sampled_from(
    [
        "the",
        "fox",
        "dog",
        "12",
        "345",
        " ",
        "  ",
        "\n",
        "\n    ",
        "\t",
        "€",
        "😀",
        "é",
        "e\u0301",
        ".",
        "ﬁ",
    ]
)
TEXTS = st.lists(
    st.one_of(WORDS, st.characters(exclude_categories=("Cs",), exclude_characters="▁")),
    min_size=1,
    max_size=12,
).map("".join)
FEW = settings(max_examples=15, deadline=None)


def sentences(answers=("the fox sleeps", "12 and 345\n\tdogs", "naïve café 😀", "the rest")):
    """A task over the sentences the tiny tokenizers know."""
    items = tuple(
        Item(f"i{i}", f"what is the dog {i}?", answer) for i, answer in enumerate(answers)
    )
    return attrs.evolve(
        word_task(), name="sentences", splits=dict.fromkeys(SPLITS, items), max_new_tokens=3
    )


def probe_of(source="sentencepiece", target="byte-level", task=None, **settings_):
    pair = pair_with(kinds()[source], kinds()[target])
    return Probe(pair, task or sentences(), settings=ProbeSettings(**settings_))


def aligned(source, target, *texts, max_length=512, join="plain"):
    items = [Item(f"i{i}", *text) for i, text in enumerate(texts)]
    return align_positions(
        kinds()[source], kinds()[target], items, name="train", join=join, max_length=max_length
    )


def text_read(tokenizer, ids):
    """Text put together from tokens, without the space some put in front."""
    known = surfaces(tokenizer)
    return b"".join(known.get(i, b"") for i in ids)


@pytest.mark.parametrize(("source", "target"), [*itertools.product(WHOLE, WHOLE)])
@FEW
@given(prompt=TEXTS, answer=TEXTS, limit=st.integers(4, 40))
def test_no_state_of_the_source_has_read_more_than_the_target(
    source, target, prompt, answer, limit
):
    """Judged by the tokens' own bytes, not by offsets; and the next token would read on."""
    row = encode_item(kinds()[target], Item("i", prompt, answer), template("plain"), limit)
    if row is None:
        return
    found = aligned(source, target, (prompt, answer), max_length=limit)
    item, picks = found.split.items[0], found.picks[0]
    assert len(picks) == row.supervised_count
    assert list(picks) == sorted(picks) and picks[0] == 0
    assert len(item.input_ids) <= limit
    text = f"{prompt} {answer}".encode()
    for i, pick in enumerate(picks):
        ours = text_read(kinds()[target], row.input_ids[: row.supervised + i])
        theirs = text_read(kinds()[source], item.input_ids[: item.supervised + pick])
        for whole, kind in ((ours, target), (theirs, source)):
            before = b" " if kind == "sentencepiece" and whole else b""
            assert (before + text).startswith(whole)
        ours = ours.removeprefix(b" ") if target == "sentencepiece" else ours
        theirs = theirs.removeprefix(b" ") if source == "sentencepiece" else theirs
        assert len(theirs) <= len(ours)


@pytest.mark.parametrize(("source", "target"), [*itertools.product(KINDS, KINDS)])
@settings(max_examples=5, deadline=None)
@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), limit=st.integers(4, 60))
def test_positions_of_any_two_tokenizers(source, target, texts, limit):
    """One position per predicting position of the target, ascending, within the limit."""
    items = [Item(f"i{i}", *text) for i, text in enumerate(texts)]
    try:
        rows = encode_split(
            kinds()[target], items, name="train", join="plain", max_length=limit
        ).items
    except UsageError:
        return
    found = aligned(source, target, *texts, max_length=limit)
    assert [item.id for item in found.split.items] == [row.id for row in rows]
    for item, picks, row in zip(found.split.items, found.picks, rows, strict=True):
        assert len(picks) == row.supervised_count
        assert list(picks) == sorted(picks)
        assert picks[0] == 0 and picks[-1] == item.supervised_count - 1
        assert len(item.input_ids) <= limit
    assert 0 <= found.exact_share <= 1


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(prompt=TEXTS, answer=TEXTS)
def test_equal_tokenizers_are_read_at_equal_positions(kind, prompt, answer):
    row = encode_item(kinds()[kind], Item("i0", prompt, answer), template("plain"), 512)
    if row is None:
        return
    found = aligned(kind, kind, (prompt, answer))
    if kind in WHOLE and not found.opened:
        assert found.split.items[0].input_ids[: row.supervised] == row.input_ids[: row.supervised]
        assert list(found.picks[0]) == list(range(row.supervised_count))
        assert found.exact_share == 1


def test_equal_words_end_at_equal_positions_in_every_spelling():
    """By hand: `the dog` + ` sleeps`; every kind reads `dog` (7), then its last token (14)."""
    for source in ("byte-level", "byte-level-trimmed", "sentencepiece", "unigram", "word-piece"):
        found = aligned(source, "word-level", ("the dog", "sleeps."))
        read = TextReader(kinds()[source]).read(Item("i", "the dog", "sleeps."), "plain")
        item = found.split.items[0]
        assert read.most[item.supervised - 1] == 0, source
        assert item.input_ids[:-1] == read.ids, source
        assert found.picks[0] == (0, item.supervised_count - 1), source
        assert found.exact_share == 1, source


def test_a_character_in_pieces_is_not_read_ahead():
    """Byte-level cuts `é` in two; sentencepiece, which has it whole, waits for the second."""
    read = TextReader(kinds()["byte-level"]).read(Item("i", "x", "€é"), "plain")
    assert read.least == read.most
    assert read.least[-6:] == (1, 2, 3, 4, 5, 6)
    found = aligned("sentencepiece", "byte-level", ("x", "é"))
    row = encode_item(kinds()["byte-level"], Item("i", "x", "é"), template("plain"), 64)
    assert row.supervised_count == 4, "space, two bytes, end"
    source = kinds()["sentencepiece"]
    item = found.split.items[0]
    pieces = source.convert_ids_to_tokens(item.input_ids)
    read = [pieces[item.supervised - 1 + pick] for pick in found.picks[0]]
    assert read == ["▁x", "▁", "▁", "é"]
    assert found.exact == 3


def test_a_character_that_a_normaliser_takes_apart_is_not_read_ahead():
    """Unigram reads the ligature U+FB01 as `f`, `i`: how much of its bytes `f` is, nobody knows."""
    item = Item("i", "x", "\ufb01")
    read = TextReader(kinds()["unigram"]).read(item, "plain")
    assert (read.least[-2:], read.most[-2:]) == ((1, 4), (4, 4))
    for source, target, wanted in (
        ("unigram", "byte-level", ["x", "x", "x", "x", "i"]),
        ("byte-level", "unigram", ["x", "Ġ", "ģ"]),
    ):
        found = aligned(source, target, ("x", "\ufb01"))
        row = found.split.items[0]
        tokens = kinds()[source].convert_ids_to_tokens(row.input_ids)
        assert [tokens[row.supervised - 1 + pick] for pick in found.picks[0]] == wanted


def test_the_end_of_the_sequence_is_predicted_from_the_whole_text():
    """A target that drops white space has not seen the last newline, but nothing more can come."""
    found = aligned("byte-level", "word-level", ("the", "fox\n"))
    tokens = kinds()["byte-level"].convert_ids_to_tokens(found.split.items[0].input_ids)
    assert tokens == ["<bos>", "the", "Ġfox", "Ċ", "<eos>"]
    assert found.picks[0] == (0, 2)


def test_spaces_trimmed_off_a_span_count_as_read():
    """Newline and three spaces in one token whose span was cut to the newline."""
    assert byte_ends("a\n   b", [(0, 1), (1, 2), (5, 6)], [b"a", b"\n   ", b"b"]) == (
        [1, 5, 6],
        [1, 5, 6],
    )
    assert byte_ends("a b", [(0, 1), (1, 2), (2, 3)], [b"a", b" ", b"b"])[0] == [1, 2, 3]
    assert byte_ends("é", [(0, 1), (0, 1)], [None, None]) == ([0, 2], [2, 2])
    trimmed = byte_level(340, trim=True)
    read = TextReader(trimmed).read(Item("i", "x):\n    return", "x"), "plain")
    tokens = trimmed.convert_ids_to_tokens(read.ids)
    assert read.most[tokens.index("ĊĠĠ")] == -len("  return")


def test_one_tokenizer_gives_the_same_bits_through_the_aligned_path(monkeypatch):
    pair = pair_of("llama")
    direct = Probe(pair, word_task()).states("train", [0, 3])
    monkeypatch.setattr(PairRows, "foreign", lambda self, origin: True)
    through = Probe(pair, word_task()).states("train", [0, 3])
    assert through.index.picks is not None and through.exact_share == 1
    rows = [4, 0, 2]
    for lengths in (None, [1, 5, 3]):
        ours, theirs = direct.read(rows, lengths), through.read(rows, lengths)
        assert all(torch.equal(ours[block], theirs[block]) for block in (0, 3))


@pytest.mark.parametrize(
    ("source", "target"), [("byte-level", "word-level"), ("word-level", "bare")]
)
@pytest.mark.parametrize("interface", Interface)
def test_states_are_those_of_a_plain_forward_pass(source, target, interface):
    """Stored and live, whole rows and rows standing in for others."""
    stored = probe_of(source, target)
    live = Probe(stored.pair, stored.task, settings=ProbeSettings(max_bytes=0))
    found = stored.positions("train")
    rows = [2, 0, 3]
    counts = [stored.encoded("train").items[row].supervised_count for row in rows]
    for lengths in (None, [counts[1], counts[2], counts[0]]):
        ours = stored.states("train", [0, 2], interface=interface).read(rows, lengths)
        theirs = live.states("train", [0, 2], interface=interface).read(rows, lengths)
        for block in (0, 2):
            assert len(ours[block]) == sum(lengths or counts)
            torch.testing.assert_close(ours[block], theirs[block], rtol=1e-4, atol=1e-5)
    item = found.split.items[0]
    with torch.no_grad():
        hidden = stored.pair.source.model(
            input_ids=torch.tensor([item.input_ids]), output_hidden_states=True
        ).hidden_states
    expected = hidden[3] if interface is Interface.RESIDUAL else hidden[3] - hidden[2]
    at = [item.supervised - 1 + pick for pick in found.picks[0]]
    states = stored.states("train", [2], interface=interface).read([0])[2]
    torch.testing.assert_close(states, expected[0, at], rtol=1e-4, atol=1e-5)


def test_the_figure_of_exact_positions_is_told():
    probe = probe_of("sentencepiece", "byte-level")
    reader = probe.states("train", [0])
    found = probe.positions("train")
    assert reader.exact_share == found.exact_share
    assert 0.5 < reader.exact_share < 1
    assert found.exact < sum(map(len, found.picks)) == len(reader.read(range(4))[0])


def test_a_truncated_target_is_not_read_beyond():
    short = probe_of("word-level", "byte-level", max_length=12)
    row, item = short.encoded("train").items[0], short.positions("train").split.items[0]
    assert len(row.input_ids) == 12 and not row.ends
    target, source = short.pair.target.tokenizer, short.pair.source.tokenizer
    seen = text_read(target, row.input_ids[:-1])
    assert seen.startswith(b"what is the dog 0?")
    assert len(text_read(source, item.input_ids[:-1])) <= len(seen) + 1
    assert short.states("train", [0]).read([0])[0].shape == (row.supervised_count, 48)


def test_a_source_that_needs_more_tokens_is_cut_and_counted():
    probe = probe_of("byte-level", "word-level", max_length=12)
    found = probe.positions("train")
    source, join = probe.pair.source.tokenizer, template("plain")
    needed = [encode_item(source, item, join, 99) for item in probe.task.items("train")]
    assert 0 < found.cut == sum(len(row.input_ids) > 12 for row in needed)
    assert all(len(item.input_ids) <= 12 for item in found.split.items)
    assert found.exact_share < 1
    states = probe.states("train", [1]).read([0])[1]
    assert len(states) == probe.encoded("train").items[0].supervised_count


def test_a_source_without_a_beginning_does_not_read_the_answer_first():
    """Only `<bos>` comes before the answer; the source, which adds none, gets a first token."""
    found = aligned("bare", "byte-level", ("", "the fox"))
    item = found.split.items[0]
    assert found.opened == 1
    assert item.supervised == 1
    assert item.input_ids[0] == kinds()["bare"].pad_token_id
    with_end = byte_level(330, bos=False)
    items = [Item("i", "", "the fox")]
    opened = align_positions(
        with_end, kinds()["byte-level"], items, name="t", join="plain", max_length=64
    )
    assert opened.split.items[0].input_ids[0] == with_end.eos_token_id
    assert aligned("bare", "byte-level", ("the", "fox")).opened == 0


def test_each_model_reads_its_own_chat_template():
    source, target = byte_level(330), byte_level(350)
    source.chat_template = "Q: {{ messages[0]['content'] }}\nthe long answer: "
    target.chat_template = "<{{ messages[0]['content'] }}>"
    items = [Item("i", "what is é?", "the fox")]
    found = align_positions(source, target, items, name="t", join="chat", max_length=64)
    item = found.split.items[0]
    assert text_read(source, item.input_ids).startswith(b"Q: what is")
    assert text_read(source, item.input_ids[: item.supervised]).endswith(b"answer:"), (
        "the space goes with the answer"
    )
    assert text_read(source, item.input_ids).endswith(b"the fox")
    source.chat_template = None
    with pytest.raises(UsageError, match="chat template"):
        align_positions(source, target, items, name="t", join="chat", max_length=64)


def test_logits_of_another_vocabulary_are_refused_with_a_way_out():
    probe = probe_of()
    with pytest.raises(PairIncompatibleError, match=r"420 tokens.*360.*output=cross-entropy"):
        probe.logits("train")


def test_backward_readings_of_the_source_use_its_own_tokens():
    probe = probe_of("unigram", "word-level", sentences(("the fox",)))
    assert probe.attribution("extract").shape == (1, 4)
    assert bool(probe.source_loss("extract").isfinite().all())


@pytest.mark.parametrize(
    ("families", "kinds_"),
    [
        (("llama", "gpt2"), ("byte-level", "sentencepiece")),
        (("qwen2", "gemma"), ("sentencepiece", "word-level")),
        (("gpt_neox", "llama"), ("unigram", "byte-level-trimmed")),
        (("gemma", "opt"), ("word-piece", "bare")),
    ],
)
def test_a_transfer_between_tokenizers_families_and_widths(families, kinds_):
    source = loaded(
        kinds()[kinds_[0]], family=families[0], seed=1, width=48, blocks=4, heads=6, kv_heads=3
    )
    pair = ModelPair(source, loaded(kinds()[kinds_[1]], family=families[1], seed=2))
    pair.source.model.requires_grad_(False)
    before, start = snapshot(pair.source), snapshot(pair.target)
    probe = Probe(pair, sentences())
    chosen = DepthMatcher(DepthOptions()).match(pair, probe)
    for placebo in ("none", "shuffled-items"):
        options = SemanticOptions(map="lens", interface=Interface.RESIDUAL, placebo=placebo)
        alignment = SemanticAligner(options).align(pair, chosen, probe)
        assert alignment.diagnostics["vocabulary"] == len(pair.vocabulary)
        with Journal(pair.target) as journal:
            done = AllBlocksInjector(AllBlocksOptions()).inject(
                pair.target,
                alignment,
                data_for(probe, steps=20, batch_size=4, learning_rate=3e-3),
                journal,
            )
            assert done.losses["layer"][-1] < done.losses["layer"][0]
            assert journal.changed()
            journal.rollback()
    assert same_bits(pair.source, before) and same_bits(pair.target, start)


def test_a_comparison_of_two_tokenizers_fails_only_where_it_must(monkeypatch):
    registry = Registry(load_plugins())
    strategies = tuple(
        choose_strategies(registry, ["latent-lens", "latent-v1", "latent"], controls=True)
    )
    task = attrs.evolve(sentences(), budget={"steps": 2, "batch_size": 4})
    monkeypatch.setattr(cells_module, "choose_task", lambda registry, name: task)
    pair = pair_with(kinds()["sentencepiece"], kinds()["byte-level"])
    pair.source.model.requires_grad_(False)
    monkeypatch.setattr(PairSpec, "load", lambda self: pair)
    plan = Plan(PairSpec("s", "t"), strategies, ("sentences",), (0,))
    runner = CellRunner(plan, registry=registry)
    working = {"source", "latent-lens", "latent-v1", "identity-self", "sft", "seqkd"}
    with_logits = {"kd", "latent", "random", "shuffled"}
    errors = {
        name: runner.run(CellKey(name, "sentences", 0)).error for name in (*working, *with_logits)
    }
    assert {name for name, error in errors.items() if error} == with_logits
    for name in with_logits:
        assert "share one tokenizer" in errors[name] and "output=cross-entropy" in errors[name]
