"""Which tokens of two vocabularies stand for the same bytes of text.

Tokenizers write text in their tokens in different ways: byte-level BPE spells every byte as a
printable character, sentencepiece writes a space as `▁` and a lone byte as `<0xAB>`, WordPiece and
word-level vocabularies leave the space out. Here every token is turned back into the bytes of text
it stands for, its *surface*; two tokens of equal surface are one *atom* of both models.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.errors import PairIncompatibleError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("eos_token_id", "bos_token_id")
"""Special tokens that are matched by what they are for: all models mean the same by the end and
the beginning of a text. Padding and unknown tokens are not atoms (nobody predicts the first, and
the second means whatever its own vocabulary lacks), nor are other special tokens."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PUNCTUATION_SPLITTERS = ("Whitespace", "BertPreTokenizer", "Punctuation")


@attrs.frozen
class SharedVocabulary:
    """Tokens that stand for the same bytes in both vocabularies.

    Arguments:
        source_ids, target_ids: equally long; ids at the same index mean the same. No id occurs
            twice, and the source's ascend. Ranges where both tokenizers are the same.
        source_size, target_size: tokens of each vocabulary; rows that only pad it not counted.
    """

    source_ids: Sequence[int]
    target_ids: Sequence[int]
    source_size: int
    target_size: int

    @classmethod
    def whole(cls, size: int) -> SharedVocabulary:
        """Return the value for two models with one tokenizer of `size` tokens."""
        return cls(range(size), range(size), size, size)

    def __len__(self) -> int:
        return len(self.source_ids)

    @property
    def share(self) -> float:
        """Shared tokens over the size of the smaller vocabulary, which bounds them: 0 to 1."""
        return len(self) / max(1, min(self.source_size, self.target_size))


def shared_vocabulary(
    source: PreTrainedTokenizerBase,
    target: PreTrainedTokenizerBase,
    *,
    source_size: int | None = None,
    target_size: int | None = None,
) -> SharedVocabulary:
    """Match tokens of equal surface, and beginning and end of text by role.

    Where several tokens of one vocabulary have the same surface, the first id stands for them;
    byte tokens such as `<0x41>` come last, because text uses the ordinary token.

    Arguments:
        source, target: fast tokenizers; compare them first, equal ones need no matching.
        source_size, target_size: ids from there on are left out (the model has no row for
            them); None for all tokens.

    Raises:
        PairIncompatibleError: a tokenizer has no fast backend that could be asked.
    """
    sizes = [
        len(tokenizer) if size is None else size
        for tokenizer, size in ((source, source_size), (target, target_size))
    ]
    ours, theirs = _first_ids(source, sizes[0]), _first_ids(target, sizes[1])
    matched = {ours[surface]: theirs[surface] for surface in ours.keys() & theirs.keys()}
    for role in ROLES:
        here, there = getattr(source, role), getattr(target, role)
        known = here is not None and there is not None and here < sizes[0] and there < sizes[1]
        if known and here not in matched and there not in matched.values():
            matched[here] = there
    source_ids = tuple(sorted(matched))
    return SharedVocabulary(source_ids, tuple(matched[i] for i in source_ids), *sizes)


def surfaces(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """Return the bytes of text each token stands for, by id; special tokens are left out.

    A token that may only begin a word counts with the space before it, whether its vocabulary
    writes that space (`Ġthe`, `▁the`) or drops it (word-level, WordPiece): all three are `b" the"`.

    Raises:
        PairIncompatibleError: the tokenizer has no fast backend.
    """
    spelling = Spelling.of(tokenizer)
    found = {i: spelling.surface(token) for token, i in tokenizer.get_vocab().items()}
    return {i: found[i] for i in sorted(found) if i not in spelling.special and found[i]}


@attrs.frozen
class Spelling:
    """How a tokenizer writes text in its tokens, judged by its components.

    Arguments:
        byte_level: every byte is one printable character, as GPT-2 has it.
        space: what stands for a space, or empty.
        byte_tokens: tokens like `<0xAB>` stand for one byte.
        continuing: prefix of tokens that go on with a word, or empty.
        drops_space: words are split at white space, which no token holds.
        splits_punctuation: punctuation is split off words as well.
        special: ids without text.
    """

    byte_level: bool = False
    space: str = ""
    byte_tokens: bool = False
    continuing: str = ""
    drops_space: bool = False
    splits_punctuation: bool = False
    special: frozenset[int] = frozenset()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Spelling:
        """Read the spelling off a tokenizer's decoder, pre-tokenizer, normaliser and model.

        Raises:
            PairIncompatibleError: the tokenizer has no fast backend.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise PairIncompatibleError(
                f"{type(tokenizer).__name__} is not a fast tokenizer, so what its tokens stand "
                "for cannot be told. Save the model with a tokenizer.json."
            )
        parts = json.loads(backend.to_str())
        model, decoders = parts["model"], _flat(parts["decoder"])
        splitters = _flat(parts["pre_tokenizer"])
        kinds = {part["type"] for part in decoders + splitters}
        space = _space([*decoders, *splitters, *_flat(parts["normalizer"])])
        byte_tokens = bool(model.get("byte_fallback")) or "ByteFallback" in kinds
        special = set(tokenizer.all_special_ids)
        special |= {t["id"] for t in parts["added_tokens"] if t["special"]}
        if byte_tokens:  # some conversions mark them as special
            vocabulary = tokenizer.get_vocab()
            special -= {i for token, i in vocabulary.items() if _BYTE_TOKEN.fullmatch(token)}
        return cls(
            byte_level="ByteLevel" in kinds,
            space=space,
            byte_tokens=byte_tokens,
            continuing=model.get("continuing_subword_prefix") or "",
            drops_space=not space and any(map(_drops_space, splitters)),
            splits_punctuation=any(part["type"] in _PUNCTUATION_SPLITTERS for part in splitters),
            special=frozenset(special),
        )

    def surface(self, token: str) -> bytes:
        """Return the bytes of text behind a token."""
        if self.byte_level:
            alphabet = byte_alphabet()
            if all(character in alphabet for character in token):
                return bytes(alphabet[character] for character in token)
            return token.encode()  # added tokens are written as they are
        if self.is_byte(token):
            return bytes.fromhex(token[3:5])
        if self.space:
            return token.replace(self.space, " ").encode()
        if self.continuing and token.startswith(self.continuing):
            return token.removeprefix(self.continuing).encode()
        return (" " if self._begins_word(token) else "").encode() + token.encode()

    def is_byte(self, token: str) -> bool:
        """Whether the token stands for one byte that no ordinary token covers."""
        return self.byte_tokens and _BYTE_TOKEN.fullmatch(token) is not None

    def _begins_word(self, token: str) -> bool:
        """Whether white space is what comes before the token in running text."""
        if not self.drops_space:
            return False
        return not self.splits_punctuation or token[:1].isalnum()


@functools.cache
def byte_alphabet() -> Mapping[str, int]:
    """Return the byte behind each character of byte-level BPE, as GPT-2 defined it.

    Printable bytes of Latin-1 are themselves; the others follow from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _first_ids(tokenizer: PreTrainedTokenizerBase, size: int) -> dict[bytes, int]:
    """Return the id that stands for each surface, ordinary tokens before byte tokens."""
    spelling, found = Spelling.of(tokenizer), surfaces(tokenizer)
    tokens = {i: token for token, i in tokenizer.get_vocab().items()}
    ids = sorted((i for i in found if i < size), key=lambda i: (spelling.is_byte(tokens[i]), i))
    first: dict[bytes, int] = {}
    for i in ids:
        first.setdefault(found[i], i)
    return first


def _flat(component: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return a component's parts, sequences taken apart."""
    return list(_walk(component)) if component else []


def _walk(component: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key in ("decoders", "pretokenizers", "normalizers"):
        if component["type"] == "Sequence" and key in component:
            for part in component[key]:
                yield from _walk(part)
            return
    yield component


def _space(parts: Sequence[dict[str, Any]]) -> str:
    """Return what stands for a space: by a metaspace part, or by a replacement either way."""
    for part in parts:
        if part["type"] == "Metaspace":
            return str(part["replacement"])
        if part["type"] == "Replace":
            pattern, content = part["pattern"].get("String"), part["content"]
            if content == " " and pattern:
                return str(pattern)
            if pattern == " " and content:
                return str(content)
    return ""


def _drops_space(part: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer leaves white space out of every token."""
    if part["type"] == "Split":
        return part["behavior"] == "Removed"
    if part["type"] == "CharDelimiterSplit":
        return bool(part["delimiter"] == " ")
    return part["type"] in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")
