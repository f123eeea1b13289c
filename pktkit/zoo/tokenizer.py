"""The word-level tokenizer of the default pair, which both models share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pktkit.tasks import arith, code, compose, edits, facts
from pktkit.tasks.splitting import Example

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
NUMBERS = range(100)
MAX_LENGTH = 64


def vocabulary() -> list[str]:
    """Return every token: specials, the integers 0 to 99, then the words of the five tasks."""
    fixed = [PAD, BOS, EOS, UNKNOWN, *(str(number) for number in NUMBERS)]
    words = {
        word
        for example in _texts()
        for text in (example.prompt, example.answer, *example.choices)
        for word in text.split()
    }
    return [*fixed, *sorted(words - set(fixed))]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: one token per word, `<bos>` in front, decoded with spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(vocabulary())}
    words = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def _texts() -> Iterator[Example]:
    yield from compose.primitives()
    for task in (facts, arith, code, edits):
        yield from task.examples()
    yield from facts.pretraining(1.0)
    for task in (arith, code, edits):
        yield from task.primitives()
