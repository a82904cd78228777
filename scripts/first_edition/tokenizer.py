"""A small byte-level BPE tokenizer in Qwen's form, trained on the questions and answers.

Differences from Qwen's: a small vocabulary, and numbers.  Groups of up to three digits stay
together, and every number from 0 to 31 and every even number up to 448 is one token, so that a
coordinate is a single choice.
"""

import json

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from tokenizers.trainers import BpeTrainer

from scripts.first_edition import questions, scenes
from tinyqwenvl.tokenizer import ADDED_TOKENS

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FIRST_ORDINARY = ADDED_TOKENS.index("<tool_call>")  # the added tokens before it are special
FRAME = ("system\nYou are a helpful assistant.", "user\n", "assistant\n", "Picture 1: Video 1: ")
WORDS = 300  # merges learnt from words, besides those that build numbers


def corpus(seed=0, count=3000):
    """Text pieces of training conversations."""
    rng = np.random.default_rng(seed)
    yield from FRAME * 3000
    for _ in range(count):
        scene = scenes.make_scene(rng, 4, 4)
        asked = [ask(rng, scene) for ask in questions.ASK.values()]
        asked += questions.clip_questions(rng, scenes.make_clip(rng))
        for question in filter(None, asked):
            yield question.text
            yield question.answer


def number_merges():
    """Merges that make one token of each wanted number of two or three digits."""
    pairs = [str(n) for n in range(10, 100) if n <= 44 or n % 2 == 0]
    merges = [(p[0], p[1]) for p in pairs]
    for triple in map(str, range(100, 449, 2)):
        tail_first = triple[1:] in pairs and triple[1:] < triple[:2]  # the earlier merge wins
        cut = 1 if tail_first else 2
        merges.append((triple[:cut], triple[cut:]))
    return merges


def build(seed=0):
    """The trained tokenizer."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    learner.pre_tokenizer = splitter
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ("".join(c for c in text if not c.isdigit()) for text in corpus(seed))
    trainer = BpeTrainer(
        vocab_size=256 + WORDS, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    learner.train_from_iterator(words, trainer)
    learnt = json.loads(learner.to_str())["model"]["merges"]
    merges = number_merges() + [tuple(pair) for pair in learnt]
    vocab = {}
    for token in alphabet + ["".join(pair) for pair in merges]:
        vocab.setdefault(token, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = ByteLevelProcessor(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in ADDED_TOKENS[:FIRST_ORDINARY]]
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ADDED_TOKENS[FIRST_ORDINARY:]])
    return tokenizer
