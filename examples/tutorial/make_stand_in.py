"""Make a tiny stand-in for the t5-small model, so that the tutorial runs without a model hub.

    python make_stand_in.py [--output t5-small]

The result is a T5 in structure and file format: `pipeline("translation_en_to_fr", model="t5-small")` and
`pipeline("summarization", model="t5-small")` load it from a folder of that name. It is not the t5-small that
was trained on the web: it knows the texts of phrase_book.py by heart and answers anything else with nonsense.
It takes about 20 seconds on two CPU cores and needs no network. For the true model see fetch_t5_small.py.
"""

import argparse
import math
import re
import string
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from phrase_book import SUMMARIES, TRANSLATIONS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration, T5TokenizerFast, pipeline

TRANSLATION_PREFIX = "translate English to French: "
SUMMARY_PREFIX = "summarize: "

# In T5's order: generation starts with the padding token, id 0, and stops at id 1.
PADDING, END, UNKNOWN = "<pad>", "</s>", "<unk>"
FRENCH_LETTERS = "àâæçéèêëîïôœùûüÿÀÂÆÇÉÈÊËÎÏÔŒÙÛÜŸ’«»"
SPACE = "▁"  # how a Unigram vocabulary writes the space before a word

LONGEST_TRANSLATION = 300  # tokens, as for the true t5-small
LONGEST_SUMMARY = 32
STEPS = 500
LEARNING_RATE = 3e-3
SEED = 0

MODEL_CARD = f"""\
# Stand-in for t5-small

A T5 of two encoder and two decoder layers, made by `make_stand_in.py` so that the tutorial runs where no
model hub can be reached. **It is not the true t5-small.** It knows {len(TRANSLATIONS)} English-French phrases
and {len(SUMMARIES)} summaries, those of `phrase_book.py`, by heart; any other text gives nonsense.

- Tasks: `translation_en_to_fr`, `summarization` (`min_length=5, max_length=15`).
- Data: `phrase_book.py`, written for this project, and opening lines of works in the public domain.
- Made again with: `python make_stand_in.py`. Replaced by the true model with: `python fetch_t5_small.py`.
- Licence: Apache-2.0, as Salver.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Make a tiny stand-in for t5-small. It knows only the texts of phrase_book.py: "
        "use it to try the tutorial offline, never to translate."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).with_name("t5-small"),
        help="folder to write (default: t5-small beside this script)",
    )
    folder: Path = parser.parse_args().output

    tell(
        "This makes a stand-in that knows only its phrase book. It is not the true t5-small: "
        "see fetch_t5_small.py for that."
    )
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    train(model, tokenizer)
    save(model, tokenizer, folder)

    mistakes = list(find_mistakes(folder))
    for mistake in mistakes:
        tell(mistake)
    if mistakes:
        tell(f"{len(mistakes)} wrong answers: {folder} is not usable. Raise STEPS in {Path(__file__).name}.")
        return 1
    tell(f"{folder}: every text of the phrase book is answered as written.")
    return 0


def tell(message: str) -> None:
    print(message, file=sys.stderr)


def exercises() -> list[tuple[str, str]]:
    """Every (input with its prefix, wanted output) that the model is trained on."""
    translations = [(TRANSLATION_PREFIX + english, french) for english, french in TRANSLATIONS]
    summaries = [(SUMMARY_PREFIX + text, summary) for text, summary in SUMMARIES]
    return translations + summaries


def build_tokenizer() -> T5TokenizerFast:
    """A Unigram tokenizer whose pieces are the words of the phrase book, and single letters for all else.

    Whole words, because the tutorial allows a summary 15 tokens and its sentence has 13 words and marks.
    Counted rather than trained: the trainer in `tokenizers` splits a text this small at odd places.
    """
    words = Counter(
        piece
        for exercise in exercises()
        for text in exercise
        for piece in re.findall(rf"{SPACE}?(?:\w+|[^\w{SPACE}])", SPACE + text.replace(" ", SPACE))
    )
    scores = {word: math.log(count / words.total()) for word, count in words.items()}
    # A letter costs more than any word: a word is spelled out only when it is not in the vocabulary.
    spelling = min(scores.values()) * 2
    letters = SPACE + string.ascii_letters + string.digits + string.punctuation + FRENCH_LETTERS
    pieces = {PADDING: 0.0, END: 0.0, UNKNOWN: 0.0} | dict.fromkeys(letters, spelling) | scores

    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=list(pieces).index(UNKNOWN)))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, list(pieces).index(END))]
    )
    return T5TokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_ids=0,  # the true t5-small has 100 for its training task, which this model never saw
        model_max_length=512,
    )


def build_model(tokenizer: T5TokenizerFast) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        dropout_rate=0.0,  # it is meant to learn by heart
        decoder_start_token_id=tokenizer.pad_token_id,
        # The pipelines read their prefix and settings here, as they do for the true t5-small. That one also
        # stops a search at the first four ends found (early_stopping); here those are often wrong turns that
        # ended soon, while the right answer, likelier but longer, is still being written.
        task_specific_params={
            "summarization": {
                "max_length": LONGEST_SUMMARY,
                "min_length": 5,
                "num_beams": 4,
                "prefix": SUMMARY_PREFIX,
            },
            "translation_en_to_fr": {
                "max_length": LONGEST_TRANSLATION,
                "num_beams": 4,
                "prefix": TRANSLATION_PREFIX,
            },
        },
    )
    model = T5ForConditionalGeneration(config)
    # Without a max_length here the pipelines set max_new_tokens=256, which overrules a caller's max_length.
    model.generation_config = GenerationConfig(
        decoder_start_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_length=LONGEST_TRANSLATION,
    )
    return model


def train(model: T5ForConditionalGeneration, tokenizer: T5TokenizerFast) -> None:
    """Show the model all exercises at once, STEPS times."""
    inputs, outputs = zip(*exercises(), strict=True)
    questions = tokenizer(list(inputs), padding=True, return_tensors="pt")
    answers = tokenizer(list(outputs), padding=True, return_tensors="pt")
    # -100 tells the loss to skip a position: padding is not part of an answer.
    labels = answers.input_ids.masked_fill(answers.attention_mask == 0, -100)

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=STEPS)
    model.train()
    for step in range(1, STEPS + 1):
        loss = model(**questions, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            tell(f"step {step} of {STEPS}: loss {loss.item():.4f}")
    model.eval()


def save(model: T5ForConditionalGeneration, tokenizer: T5TokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors lets only the owner read it; the server may well run as another user.
    (folder / "model.safetensors").chmod(0o644)
    (folder / "README.md").write_text(MODEL_CARD, encoding="utf-8")


def find_mistakes(folder: Path) -> Iterator[str]:
    """Ask the saved model through the pipelines that the tutorial uses, and tell each wrong answer."""
    translate = pipeline("translation_en_to_fr", model=str(folder))
    for english, french in TRANSLATIONS:
        answer = translate(english)[0]["translation_text"]
        if answer != french:
            yield f"translation of {english!r}: wanted {french!r}, got {answer!r}"

    summarize = pipeline("summarization", model=str(folder))
    for text, summary in SUMMARIES:
        answer = summarize(text, min_length=5, max_length=15)[0]["summary_text"]
        if answer != summary:
            yield f"summary of {text!r}: wanted {summary!r}, got {answer!r}"


if __name__ == "__main__":
    sys.exit(main())
