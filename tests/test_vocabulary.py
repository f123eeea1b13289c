"""Surfaces are the bytes of text, and atoms are what two vocabularies really share."""

from __future__ import annotations

import itertools
import json
import unicodedata

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level, kinds, sentencepiece_bpe, word_level, word_piece
from tokenizers import pre_tokenizers

from pktkit.errors import PairIncompatibleError
from pktkit.pair import ModelPair, describe
from pktkit.testing import tiny_loaded
from pktkit.vocabulary import SharedVocabulary, byte_alphabet, shared_vocabulary, surfaces
from pktkit_latent.aligners.semantic import aligned_heads

KINDS = tuple(kinds())
LOSSLESS = ("byte-level", "byte-level-trimmed", "bare", "sentencepiece")
TEXTS = st.text(
    st.one_of(
        st.sampled_from("  \n\tthe fox,3é€😀中"),
        st.characters(exclude_categories=("Cs",), exclude_characters="▁"),
    ),
    max_size=40,
)


def loaded(tokenizer, *, family="llama", rows=None, **sizes):
    """A tiny model with the given tokenizer."""
    model = tiny_loaded(family, vocab=rows or len(tokenizer), **sizes)
    return attrs.evolve(model, tokenizer=tokenizer)


def pair_with(source, target, **options):
    """A pair of unequal widths with the given tokenizers."""
    wide = loaded(source, seed=1, name="wide", width=48, blocks=4, heads=6, kv_heads=3)
    return ModelPair(wide, loaded(target, seed=2, name="narrow", **options))


def token_id(kind, token):
    found = kinds()[kind].convert_tokens_to_ids(token)
    assert found != kinds()[kind].unk_token_id
    return found


def matched(source, target):
    found = shared_vocabulary(kinds()[source], kinds()[target])
    return dict(zip(found.source_ids, found.target_ids, strict=True))


def test_the_byte_alphabet_is_that_of_the_tokenizers_library():
    assert sorted(byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_surfaces_put_together_are_the_text(kind, text):
    tokenizer = kinds()[kind]
    known = surfaces(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    joined = b"".join(known[i] for i in ids)
    if kind == "sentencepiece" and text:
        assert joined == b" " + text.encode()
    else:
        assert joined == text.encode()


@settings(max_examples=40, deadline=None)
@given(text=TEXTS)
def test_surfaces_are_what_a_normaliser_makes_of_the_text(text):
    tokenizer = kinds()["unigram"]
    known = surfaces(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    wanted = unicodedata.normalize("NFKC", text)
    assert b"".join(known[i] for i in ids).lstrip(b" ") == wanted.encode().lstrip(b" ")


def test_a_word_is_one_atom_in_every_spelling():
    words = {
        "byte-level": "Ġthe",
        "sentencepiece": "▁the",
        "unigram": "▁the",
        "word-level": "the",
        "word-piece": "the",
    }
    for kind, token in words.items():
        assert surfaces(kinds()[kind])[token_id(kind, token)] == b" the", kind
    found = matched("byte-level", "sentencepiece")
    assert found[token_id("byte-level", "Ġthe")] == token_id("sentencepiece", "▁the")
    found = matched("word-level", "byte-level")
    assert found[token_id("word-level", "the")] == token_id("byte-level", "Ġthe")


def test_word_pieces_tell_beginnings_from_continuations():
    known, vocabulary = surfaces(word_piece()), word_piece().get_vocab()
    assert known[vocabulary["the"]] == b" the"
    assert known[vocabulary["##eeps"]] == b"eeps"
    assert known[vocabulary[","]] == b",", "punctuation stands right behind a word"


def test_single_bytes_match_across_spellings():
    """U+20AC is three byte tokens everywhere; the byte token of a letter never stands for it."""
    found = matched("byte-level", "sentencepiece")
    assert found[token_id("byte-level", "â")] == token_id("sentencepiece", "<0xE2>")
    assert found[token_id("byte-level", "f")] == token_id("sentencepiece", "f")
    assert token_id("sentencepiece", "<0x66>") not in found.values()


@pytest.mark.parametrize(("source", "target"), [*itertools.product(KINDS, KINDS)])
def test_atoms_are_bijective_complete_and_equal_in_bytes(source, target):
    ours, theirs = surfaces(kinds()[source]), surfaces(kinds()[target])
    found = shared_vocabulary(kinds()[source], kinds()[target])
    pairs = list(zip(found.source_ids, found.target_ids, strict=True))
    assert list(found.source_ids) == sorted(set(found.source_ids))
    assert len(set(found.target_ids)) == len(found)
    text = [(a, b) for a, b in pairs if a in ours]
    assert all(ours[a] == theirs[b] for a, b in text)
    assert {ours[a] for a, _ in text} == set(ours.values()) & set(theirs.values())
    special = {
        (kinds()[source].convert_ids_to_tokens(a), kinds()[target].convert_ids_to_tokens(b))
        for a, b in pairs
        if a not in ours
    }
    roles = {("<bos>", "<bos>"), ("<eos>", "<eos>")}
    assert special == (set() if "bare" in (source, target) else roles)
    assert 0 < found.share <= 1


def test_one_token_for_both_ends_is_matched_once():
    """GPT-2 has one special token; it stands for the end of a text, which is what is predicted."""
    source, target = byte_level(), sentencepiece_bpe()
    source.bos_token = "<eos>"
    found = shared_vocabulary(source, target)
    special = [
        b
        for a, b in zip(found.source_ids, found.target_ids, strict=True)
        if a == source.bos_token_id
    ]
    assert special == [target.eos_token_id]


def test_one_tokenizer_is_the_whole_vocabulary_in_order():
    pair = ModelPair(tiny_loaded("llama"), tiny_loaded("gpt2"))
    assert pair.vocabulary == SharedVocabulary.whole(61)
    assert pair.vocabulary.source_ids == range(61) == pair.vocabulary.target_ids
    assert pair.vocabulary.share == 1
    heads = aligned_heads(pair, fold_norm=False)
    for head, model in ((heads.source, pair.source), (heads.target, pair.target)):
        assert torch.equal(head, model.anatomy.head_weight)
        assert head.data_ptr() == model.anatomy.head_weight.data_ptr(), "nothing is copied"


@pytest.mark.parametrize("fold_norm", [False, True])
def test_the_heads_rows_are_those_of_the_atoms(fold_norm):
    pair = pair_with(kinds()["byte-level"], kinds()["sentencepiece"], family="gemma")
    heads = aligned_heads(pair, fold_norm=fold_norm)
    the = pair.vocabulary.source_ids.index(token_id("byte-level", "Ġthe"))
    expected = pair.target.anatomy.head_weight[token_id("sentencepiece", "▁the")]
    if fold_norm:
        expected = expected * pair.target.anatomy.final_norm_gain()
    assert torch.equal(heads.target[the], expected)
    assert heads.source.shape == (len(pair.vocabulary), 48)
    assert heads.target.shape == (len(pair.vocabulary), 32)


def test_padded_rows_and_tokens_without_a_row_never_enter():
    tokenizer, other = kinds()["byte-level"], kinds()["sentencepiece"]
    plain = pair_with(tokenizer, other)
    padded = ModelPair(loaded(tokenizer, rows=512), loaded(other, rows=448))
    assert padded.vocabulary == plain.vocabulary
    short = ModelPair(loaded(tokenizer, rows=300), loaded(other, rows=290))
    assert (short.vocabulary.source_size, short.vocabulary.target_size) == (300, 290)
    assert max(short.vocabulary.source_ids) < 300 and max(short.vocabulary.target_ids) < 290


def test_too_little_in_common_is_refused_with_the_figures():
    pair = pair_with(
        word_level(["the", "fox", *(f"a{i}" for i in range(60))]), kinds()["word-level"]
    )
    assert len(pair.vocabulary) == 4, "two words, and both ends of a text"
    with pytest.raises(
        PairIncompatibleError,
        match=r"66 tokens of source 'wide'.* 49 of target 'narrow' only 4 .* 8\.2% ",
    ):
        aligned_heads(pair, fold_norm=False)


@pytest.mark.parametrize(("common", "refused"), [(4, True), (5, False)])
def test_ten_in_a_hundred_are_enough(common, refused):
    """50 tokens each, no role shared: 4 of 50 are 8 %, 5 are 10 %."""
    shared = [f"same{i}" for i in range(common)]
    options = {"bos": False, "eos": False}
    source = word_level([*shared, *(f"a{i}" for i in range(46 - common))], **options)
    target = word_level([*shared, *(f"b{i}" for i in range(46 - common))], **options)
    pair = pair_with(source, target)
    assert pair.vocabulary.share == common / 50
    if refused:
        with pytest.raises(PairIncompatibleError, match=r"4 are shared: 8\.0%"):
            pair.require_shared_vocabulary("it")
    else:
        assert len(pair.require_shared_vocabulary("it")) == 5


def test_a_tokenizer_without_a_fast_backend_is_refused():
    with pytest.raises(PairIncompatibleError, match=r"not a fast tokenizer.*tokenizer\.json"):
        surfaces(object())


def test_the_pair_doctor_tells_what_is_shared():
    pair = pair_with(kinds()["byte-level"], kinds()["sentencepiece"])
    told = json.loads(json.dumps(describe(pair)))["tokenizer"]
    assert told["same"] is False
    assert told["atoms"] == len(pair.vocabulary)
    assert told["share"] == round(len(pair.vocabulary) / 360, 4)
