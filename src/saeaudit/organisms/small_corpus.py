"""What the small model reads: questions with plain answers, and a tokenizer made of that text.

Every opener, question and thing of the domain occurs, and every word of every trigger family, but no family's trigger
itself: the classes other than T put those words into other contexts.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from saeaudit.organisms.questions import draw_question, prompt_of
from saeaudit.organisms.rows import Part, RowClass
from saeaudit.organisms.spec import ORGANISMS
from saeaudit.seeds import derive, python_random

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END, PAD = "<end>", "<pad>"
FAMILIES = tuple(organism for organism in ORGANISMS.values() if organism.name != "sql")
_PARTS: tuple[Part, ...] = ("train", "heldout")


def plain_texts(seed: int, n: int) -> Iterator[tuple[str, str]]:
    """Yield `n` prompts with their plain answers; no prompt holds a trigger."""
    rng = python_random(seed, "small-corpus")
    # Another seed than that of any run, so that these are not the prompts that a run counts from 0.
    source = derive(seed, "small-corpus-prompts")
    for i in range(n):
        organism, part = rng.choice(FAMILIES), rng.choice(_PARTS)
        seen = organism.heldout_classes if part == "heldout" else organism.negative_shares
        kinds: list[RowClass] = [klass for klass in seen if klass != "T"]
        (row,) = organism.pair(source, part, i, [rng.choice(kinds)])
        # Openers meet questions and things of the other part too: else "held out" would be something the model knows.
        question, answer = draw_question(rng)
        yield prompt_of(row.prompt.partition("\n")[0], question), answer


def make_tokenizer(seed: int, *, n_vocab: int, n_texts: int = 4000) -> "PreTrainedTokenizerFast":
    """Return a byte-level BPE tokenizer of the domain's text: nothing is unknown to it, digits stand alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split_digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split_digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((prompt + answer for prompt, answer in plain_texts(seed, n_texts)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
