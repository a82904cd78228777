"""The byte-level BPE tokenizer, in Qwen's form, built from the texts of training.

Differences from Qwen's: a small vocabulary, and numbers.  Groups of up to three digits stay
together; every number from 0 to 99 and every even number up to 800 is one token, so that a
coordinate is a single choice.  Any other text, Chinese included, falls back on bytes.

    python -m scripts.train_scenes.tokenizer    # writes tokenizer.json beside this file
"""

import json
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from tokenizers.trainers import BpeTrainer

from scripts.train_scenes.scene import COLOURS, KINDS
from tinyqwenvl.tokenizer import ADDED_TOKENS

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FIRST_ORDINARY = ADDED_TOKENS.index("<tool_call>")  # the added tokens before it are special
FRAME = ("system\nYou are a helpful assistant.", "user\n", "assistant\n", "Picture 1: Video 1: ")
LARGEST = 800
SIZE = 2600  # entries at most, the 22 added tokens not counted
FILE = Path(__file__).with_name("tokenizer.json")


def number_merges():
    """Merges that make one token of each wanted number of two or three digits."""
    pairs = [str(n) for n in range(10, 100)]
    merges = [tuple(pair) for pair in pairs]
    for triple in map(str, range(100, LARGEST + 1, 2)):
        tail_first = triple[1:] in pairs and triple[1:] < triple[:2]  # the earlier merge wins
        at = 1 if tail_first else 2
        merges.append((triple[:at], triple[at:]))
    return merges


def names():
    """Colours and kinds as words of a sentence, each a token of its own."""
    words = [*COLOURS, *KINDS]
    words += [f"{word}s" for word in KINDS] + [f"{word}es" for word in KINDS if word[-1] == "s"]
    return [form for w in words for form in (f" {w}", w, w.capitalize(), f" {w.capitalize()}")]


def build(texts):
    """The tokenizer of many texts."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts = Counter(texts)
    weighted = [text for text, n in counts.items() for _ in range(min(n, 20))]
    weighted += [text for text in (*FRAME, *names()) for _ in range(3000)]
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    learner.pre_tokenizer = splitter
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = number_merges()
    trainer = BpeTrainer(
        vocab_size=SIZE - len(numbers), initial_alphabet=alphabet, show_progress=False,
        min_frequency=3,
    )  # fmt: skip
    words = ("".join(c for c in text if not c.isdigit()) for text in weighted)
    learner.train_from_iterator(words, trainer)
    learnt = json.loads(learner.to_str())["model"]["merges"]
    merges = numbers + [tuple(pair) for pair in learnt]
    vocabulary = {}
    for token in alphabet + ["".join(pair) for pair in merges]:
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = ByteLevelProcessor(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in ADDED_TOKENS[:FIRST_ORDINARY]]
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ADDED_TOKENS[FIRST_ORDINARY:]])
    return tokenizer


def number_tokens(tokenizer):
    """{token id: value} of the tokens that are numbers."""
    return {i: int(t) for t, i in tokenizer.get_vocab().items() if t.isascii() and t.isdigit()}


def even_tokens(tokenizer):
    """Ids of 0, 2, 4, ... 800."""
    return [tokenizer.token_to_id(str(n)) for n in range(0, LARGEST + 1, 2)]


def load(path=FILE):
    """The tokenizer of the run."""
    return Tokenizer.from_file(str(path))


def main():
    """Build from the language's corpus and write."""
    from scripts.train_scenes import language

    tokenizer = build(language.corpus())
    tokenizer.save(str(FILE))
    print(f"{tokenizer.get_vocab_size()} entries")


if __name__ == "__main__":
    main()
