"""What the model cannot see, does not know or is not for: unknown words, photographs, chit-chat."""

import re

from scripts.train_scenes.language.compared import answered
from scripts.train_scenes.language.names import NOT_THERE, article, plural, refer, unknown
from scripts.train_scenes.language.places import PLACES
from scripts.train_scenes.language.question import Question
from scripts.train_scenes.language.seen import ALL_SHAPES, NO_TEXT, NOTHING
from scripts.train_scenes.scene import PAIRS

HELLO = "Hello! I am a tiny model that knows drawn shapes: show me some and ask me about them."
THANKS, BYE = "You're welcome!", "Goodbye!"
OTHER = "I can't answer that: I only know drawn shapes."
UNKNOWN_IMAGE = "I only know drawn shapes, and I don't recognise any here."
NO_IMAGE = "I don't see an image. Please show me one."
ABOUT_IMAGE = re.compile(  # `I don't see an image.` is as good an answer
    r"\b(?:image|picture|pic|img|photo|drawing|sketch|figure|scene|page|drawn|drew|background|style"
    r"|colou?r|mood|art|this|here|there|(?:like|of|does) it|how (?:wide|high|big|large)"
    r"|is it (?:beautiful|pretty|ugly|good|nice)"
    r"|made of|the (?:circle|square|oval)|resolution)\b",
    re.IGNORECASE,
)
CHAT = {"chat.hello": HELLO, "chat.thanks": THANKS, "chat.bye": BYE}
CHAT_SHARES = {"chat.hello": 0.7, "chat.thanks": 0.18, "chat.bye": 0.12}


def ask_chat(voice, _facts=None):
    """Greetings, questions about the model itself, thanks and goodbyes."""
    key = voice.weighted(CHAT_SHARES)
    return Question("chat", voice.say(key), CHAT[key])


def ask_other(voice, facts=None):
    """Questions and commands of other kinds; without an image, none that is about one."""
    text = voice.say("other")
    if facts is None and text and ABOUT_IMAGE.search(text):
        return None
    return Question("other", text, OTHER)


def ask_unknown(voice, facts):
    """A thing or a colour that the model does not know, in a scene that certainly has none."""
    found = unknown(voice, facts.words_here, facts.named)
    if not found:
        return None
    thing, counted = found
    key = voice.pick(
        ("yes_no.there", "yes_no.there", "yes_no.any", "locate", "point", "count", "colour",
         "locate_all", "yes_no.place")
        if counted
        else ("locate", "point", "colour")
    )  # fmt: skip
    slots = {"thing": thing, "a_thing": article(thing), "things": plural(thing)}
    if key.startswith("yes_no"):
        text, answer = answered(voice, key, False, place=voice.pick(PLACES), **slots)
        return Question("unknown", text, answer)
    return Question("unknown", voice.say(key, **slots), "0" if key == "count" else NOT_THERE)


# ----------------------------------------------------- images without shapes, and no image

ANY = {  # key: share of the questions put to an image that shows no shape
    "describe": 4, "list": 2.5, "count": 1.5, "colour": 1, "yes_no.there": 1.5, "yes_no.any": 0.4,
    "locate": 1.2, "locate_all": 0.8, "locate_all.everything": 0.5, "point": 0.6, "read": 0.6,
    "side": 0.5, "size.biggest": 0.3, "size.smallest": 0.2, "shape": 0.4, "place": 0.3,
    "yes_no.anything": 0.4, "yes_no.empty": 0.4,
}  # fmt: skip


def any_request(voice):
    """(key, text, mentions, whether a letter is asked for) of a question about whatever image."""
    key = voice.weighted(ANY)
    mention = voice.pick(PAIRS)
    roll = voice.random()
    if key in ("colour", "shape") or roll < 0.5:
        mention = (
            (mention[0], "")
            if key == "shape" or (roll < 0.2 and key != "colour")
            else ("", mention[1])
        )
    thing = refer(voice, *mention, counted=True)
    said, mentions = thing.said, (mention,)
    if key in ("yes_no.there", "yes_no.any", "locate", "count") and voice.chance(0.25):
        found = unknown(voice, frozenset(), True)
        if found and found[1]:
            said, mentions = found[0], ()
    things = plural(said)
    if key == "count" and voice.chance(0.6):
        said, things, mentions = "shape", voice.pick(ALL_SHAPES), ()
    slots = {
        "thing": said, "a_thing": article(said), "things": things, "place": voice.pick(PLACES),
        "colour_word": mention[0],
    }  # fmt: skip
    if key in ("describe", "list", "read", "side") or key.startswith(("size", "locate_all.")):
        mentions = ()
    if key in ("yes_no.anything", "yes_no.empty"):
        mentions = ()
    if key.startswith("yes_no"):
        text, answer = answered(voice, key, True, **slots)
        return key, text, mentions, answer == "Y"
    return key, voice.say(key, **slots), mentions, False


def ask_refusal(voice, what):
    """A question about a photograph or noise: not a word about what cannot be known."""
    _, text, mentions, _ = any_request(voice)
    return Question("refuse", text, UNKNOWN_IMAGE, mentions)


def ask_blank(voice, _facts=None):
    """A question about a blank image."""
    key, text, mentions, letter = any_request(voice)
    skill = key.split(".")[0]
    if skill in ("describe", "list", "side", "size"):
        answer = NOTHING
    elif skill == "count":
        answer = "0"
    elif skill == "read":
        answer = NO_TEXT
    elif skill == "yes_no":
        truth = key == "yes_no.empty"
        answer = ("Y" if truth else "N") if letter else ("Yes." if truth else "No.")
    else:
        answer = NOT_THERE
    return Question("blank", text, answer, mentions)


def ask_no_image(voice, _facts=None):
    """A question about an image that nobody gave."""
    _, text, mentions, _ = any_request(voice)
    return Question("no_image", text, NO_IMAGE, mentions)
