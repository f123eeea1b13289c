"""Small real tokenizers of every kind over a few sentences, the same in every process.

Byte-level and sentencepiece BPE are trained; the trainers of the other kinds break ties at random,
so that those vocabularies are written down.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from pktkit.testing.models import SPECIAL_TOKENS

SENTENCES = (
    "the quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "def f(x):\n    return x ** 2 + 3\n\n\tprint(f(4))  # naïve café → «12»",
    "three birds count to 12 and 13 while the other fox eats the cake",
    "question: what is 3 + 4? answer: 7 and the rest of the other 345 numbers",
)
SPECIAL = list(SPECIAL_TOKENS)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def wrapped(backend: Tokenizer, *, bos: bool = True, eos: bool = True) -> PreTrainedTokenizerFast:
    """Wrap a backend; with `bos`, `<bos>` goes in front of every text."""
    if bos:
        template = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", backend.token_to_id("<bos>"))]
        )
        before = [] if backend.post_processor is None else [backend.post_processor]
        backend.post_processor = processors.Sequence([*before, template])
    roles = {"bos_token": "<bos>"} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        **roles,
        **({"eos_token": "<eos>"} if eos else {}),
    )


def byte_level(size: int = 360, *, trim: bool = False, **roles: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Qwen and Llama 3; `trim` takes spaces off the offsets."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return wrapped(backend, **roles)


def sentencepiece_bpe(size: int = 160, **roles: bool) -> PreTrainedTokenizerFast:
    """BPE over `▁` with byte fallback, as Llama 2; byte tokens lie before the ordinary ones."""
    words, merges = _pieces(size)
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *BYTES, *words])}
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(SPECIAL)
    return wrapped(backend, **roles)


def unigram(size: int = 120, **roles: bool) -> PreTrainedTokenizerFast:
    """Unigram over `▁` with byte fallback and a normaliser, as T5 and its kin."""
    words, _ = _pieces(size)
    pieces = [(word, -5.0 - 0.01 * rank) for rank, word in enumerate(words)]
    specials = [(token, 0.0) for token in SPECIAL + BYTES]
    backend = Tokenizer(
        models.Unigram([*specials, *pieces], unk_id=SPECIAL.index("<unk>"), byte_fallback=True)
    )
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    backend.add_special_tokens(SPECIAL)
    return wrapped(backend, **roles)


def word_level(words: Sequence[str] = (), **roles: bool) -> PreTrainedTokenizerFast:
    """One token per word of the sentences, or of `words`; white space is dropped."""
    known = words or sorted({word for text in SENTENCES for word in text.split()})
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *known])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(SPECIAL)
    return wrapped(backend, **roles)


def word_piece(**roles: bool) -> PreTrainedTokenizerFast:
    """WordPiece, as BERT: `##` goes on with a word, punctuation stands alone."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["the", "fox", "dog", "cake", "answer", "question", "12", *letters, *",.:?+#=()*"]
    parts = [f"##{part}" for part in ("eeps", "ing", "ther", "est", *letters)]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *words, *parts])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(SPECIAL)
    return wrapped(backend, **roles)


@functools.cache
def kinds() -> dict[str, PreTrainedTokenizerFast]:
    """Every kind once, not to be changed."""
    return {
        "byte-level": byte_level(),
        "byte-level-trimmed": byte_level(340, trim=True),
        "sentencepiece": sentencepiece_bpe(),
        "unigram": unigram(),
        "word-level": word_level(),
        "word-piece": word_piece(),
        "bare": byte_level(330, bos=False, eos=False),
    }


@functools.cache
def _pieces(size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Return words over `▁` by rank, and the merges that make them."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(SENTENCES, BpeTrainer(vocab_size=size, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    return words, [(left, right) for left, right in model["merges"]]
