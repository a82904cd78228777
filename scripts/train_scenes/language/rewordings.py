"""Training requests in other words: exchanged expressions, and the lists that came later.

Nothing here says what a held-out request says: `wordings` compares them without regard to
articles, politeness, capitals and punctuation.
"""

import re
from functools import cache
from itertools import islice, product

from scripts.train_scenes.language import english_later, english_later_compare, english_later_more

LATER = {
    **english_later.REQUESTS,
    **english_later_compare.REQUESTS,
    **english_later_more.REQUESTS,
}
EXCHANGES = (  # (a pattern in a template, what may stand there instead)
    (r"\btell me\b", ("let me know", "say")),
    (r"\bgive \[me\|\] ", ("show me ", "I need ", "get me ", "provide ")),
    (r"\bdo you \{see\}", ("are you able to {see}", "do you manage to {see}")),
    (r"\bcan you \{see\}", ("are you able to {see}", "do you happen to {see}")),
    (r"\bis there\b", ("do you have",)),
    (r"\bare there\b", ("do you have", "does it have")),
    (r"\bwhat is\b", ("what might be", "what would be")),
    (r"\bwhich (\{object\}|\{shapes\}|shape|part|side|corner)", (r"what \1",)),
    (r"\bwhat (shape|kind|form|word|text|colour)\b", (r"which \1",)),
    (r"^name\b", ("state", "give me the name of")),
    (r"^find\b", ("look for", "search for")),
    (r"^describe (?=\{image\})", ("depict ", "portray ", "give an account of ")),
    (r"^(?:locate|detect)\b", ("spot", "find")),
    (r"\bwhere is\b", ("where might I see", "where do I find")),
    (r"\[biggest\|largest\]|\bbiggest\b|\blargest\b", ("hugest", "greatest", "most big")),
    (r"\bsmallest\b", ("littlest", "most tiny", "least big")),
    (r"(?<!in )\bbetween the \{first\}", ("in between the {first}", "halfway between the {first}")),
    (r"\bvideo\b|\[video\|clip\]", ("film", "recording", "movie")),
    (r"\{thing\} appears\b", ("{thing} turns up", "{thing} emerges")),
    (r"\{thing\} appear\b", ("{thing} turn up", "{thing} emerge")),
    (r"\bmoves\b", ("travels", "slides")),
    (r"\bmove\b", ("travel", "slide")),
    (r"\bchanged\b", ("altered",)),
    (r"\bhow many\b", ("what number of",)),
    (r"^count\b", ("add up",)),
    (r"\bcentre\b", ("midpoint", "center")),
    (r"\bI draw\b", ("I sketch", "I doodle")),
    (r"\bI drew\b", ("I sketched", "I doodled")),
    (r"\bdrawn\b", ("sketched", "pictured")),
    (r"\bwritten\b", ("printed", "spelled")),
)
MOST_WORDINGS = 400
_CHOICE = re.compile(r"\[([^]]*)\]")
_LEFT_OUT = re.compile(r"\b(?:please|the|a|an|me)\b|[^\w ]")
_SAME = {  # a word of a class stands for all of it
    word: name
    for name, words in {
        "image": "picture drawing photo sketch pic img scene page sheet this it figure my",
        "see": "spot find notice recognise recognize",
        "shape": "object thing figure item one form",
        "shapes": "objects things figures items forms",
        "colour": "color",
        "colours": "colors",
        "centre": "center",
        "box": "bbox bounding",
        "biggest": "largest",
        "analyse": "analyze",
        "summarise": "summarize",
        "is": "was",
    }.items()
    for word in words.split()
}


def expand(text):
    """All texts of a template's [a|b|] choices."""
    parts = _CHOICE.split(text)
    options = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return [
        "".join(chosen).replace("  ", " ") for chosen in islice(product(*options), MOST_WORDINGS)
    ]


def plain(text):
    """A text's words in short: without articles, politeness, capitals and punctuation.

    Nor with `in the image`; words that can stand for one another are one word.
    """
    text = _LEFT_OUT.sub(" ", text.replace("{in}", " ").lower().replace("'s ", " is "))
    found = []
    for word in text.split():
        word = _SAME.get(word, word)
        if not (found and word == found[-1]):
            found.append(word)
    text = " ".join(found)
    return re.sub(r"(?<=\w) (?:in|on) image$", "", text)


def wordings(texts):
    """The plain words of all texts of some templates."""
    return frozenset(plain(line) for text in texts for line in expand(text))


def without(text, forbidden):
    """The texts of a template that do not say what is forbidden."""
    return tuple(line for line in expand(text) if plain(line) not in forbidden)


@cache
def exchanged(text):
    """Templates that say what `text` says, with one expression exchanged."""
    found = []
    for pattern, others in EXCHANGES:
        found += [re.sub(pattern, other, text, count=1) for other in others]
    return tuple(dict.fromkeys(other for other in found if other != text))
