"""Small real tokenizers and rows for the tests of the data package."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hf_unlearn.data.example import Example

TEXTS = [
    "The birth of Ada Stone took place in the year 1934.",
    "Question: Who wrote it? Answer: Nobody knows who wrote it.",
    "سنة الميلاد هي ١٩٣٤ في المدينة القديمة",
    "שנת הלידה היא 1934 בעיר העתיקה",
    "一九三四年，他在一个小城市出生。",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bpe_tokenizer(*, bos: bool = True, normalizer=None, vocab_size: int = 700) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on ``TEXTS``, in which 1934 is one token."""
    from tokenizers.processors import TemplateProcessing

    bpe = Tokenizer(models.BPE())
    if normalizer is not None:
        bpe.normalizer = normalizer
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([text for text in TEXTS for _ in range(5)] + [" 1934"] * 50, trainer)
    if bos:
        bpe.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", bpe.token_to_id("<s>")), ("</s>", bpe.token_to_id("</s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Puts BOS in front of a text and, to make it harder, EOS behind it."""
    return bpe_tokenizer()


@pytest.fixture(scope="session")
def bare_tokenizer() -> PreTrainedTokenizerFast:
    """Adds nothing to a text."""
    return bpe_tokenizer(bos=False)


@pytest.fixture(scope="session")
def nfc_tokenizer() -> PreTrainedTokenizerFast:
    """Composes characters before it tokenizes."""
    return bpe_tokenizer(normalizer=normalizers.NFC())


@pytest.fixture
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Has a chat template that writes no BOS."""
    chat = bpe_tokenizer()
    chat.chat_template = CHATML
    return chat


@pytest.fixture
def make_row():
    """A function from prompt and answer to a row."""

    def make(prompt: str, answer: str, **fields) -> Example:
        return Example(**{"id": "row", "fact": "row", "group": "row", "prompt": prompt, "answer": answer, **fields})

    return make
