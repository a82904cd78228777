"""Conversations of up to six turns: follow-ups, earlier images, new images in a later turn."""

import json

from scripts.train_scenes.language import compared, places, seen
from scripts.train_scenes.language.asking import ALONE, once, seen_by, steered, table_of
from scripts.train_scenes.language.english_more import EARLIER
from scripts.train_scenes.language.facts import Facts
from scripts.train_scenes.language.grammar import Voice
from scripts.train_scenes.language.grounding import FORMS, one
from scripts.train_scenes.language.names import refer, sentence
from scripts.train_scenes.language.question import Question, Turn, denies
from scripts.train_scenes.scene import Refusal, Scene
from scripts.train_scenes.steering import TURNS

MOST_TURNS = 6
TRIES = 60


# ---------------------------------------------------------------------------- follow-ups


def pronoun(voice, facts, before):
    """`What colour is it?` about the one shape that the turn before was about."""
    shape = before.focus
    if shape is None or not (shape.colour and shape.kind) or shape not in facts.shapes:
        return None
    what = voice.pick(("colour", "shape", "locate", "point", "place"))
    if what == "colour":
        if any(m[0] for m in before.mentions):
            return None
        text, answer = voice.say("follow.colour"), sentence(shape.colour)
        return Question("colour", text, answer, instead=seen.held_colours(shape), focus=shape)
    if what == "shape":
        if any(m[1] for m in before.mentions):
            return None
        text, answer = voice.say("follow.shape"), sentence(seen.article(shape.kind))
        return Question("shape", text, answer, instead=seen.held_kinds(shape), focus=shape)
    text = voice.say(f"follow.{what}")
    if what == "place":
        place = facts.place(shape)
        return Question("place", text, sentence(place), focus=shape) if place else None
    answer = json.dumps(FORMS[what](shape, shape.name))
    return Question(what, text, answer, focus=shape)


def another(voice, facts, before):
    """`And the blue square?`: the question before about another shape."""
    frame, old = before.frame, before.mentions[0] if before.mentions else ("", "")
    if frame == "yes_no":
        truth = voice.chance(0.5)
        mention = (compared.present if truth else compared.missing)(voice, facts)
        if not mention or mention == old:
            return None
        thing = refer(voice, *mention, counted=True)
        text = voice.say("follow.yes_no", thing=thing.said, a_thing=thing.a, things=thing.many)
        answer = (
            ("Y" if truth else "N") if before.answer in ("Y", "N") else "Yes." if truth else "No."
        )
        return Question("yes_no", text, answer, (mention,), frame="yes_no")
    if frame == "count":
        return seen.count_of(voice, facts, seen.mention_to_count(voice, facts), "follow.count")
    if frame not in ("colour", "shape", "locate", "point", "place"):
        return None
    known = {"colour": seen.by_kind, "shape": seen.by_colour}.get(frame, lambda f: f.single)(facts)
    known = [(m, s) for m, s in known if any(m) and s is not before.focus and _is_same_form(m, old)]
    if not known:
        return None
    mention, shape = voice.pick(known)
    if frame == "shape":
        answer = sentence(seen.article(shape.kind))
        text = voice.say("follow.same", thing=refer(voice, *mention).said)
        return Question("shape", text, answer, (mention,), seen.held_kinds(shape), shape, "shape")
    if frame == "colour":
        return seen.colour_of(voice, mention, shape, "follow.same")
    if frame == "place":
        return places.place_of(voice, facts, mention, shape, "follow.same")
    return one(voice, frame, mention, shape, "follow.same")


def _is_same_form(mention, old):
    """A full name after anything; by colour or by kind alone only after the same."""
    return all(mention) or [bool(w) for w in mention] == [bool(w) for w in old]


def repeated(voice, content, before):
    """`And this one?`: the question before about a new image."""
    if not isinstance(content, Scene):
        return None
    facts, text = Facts(content), voice.say("follow.image")
    if before.frame in ("describe", "list"):
        answer = (seen.description if before.frame == "describe" else seen.enumeration)(facts)
        return Question(before.frame, text, answer, frame=before.frame) if answer else None
    if before.frame == "count":
        mentions = before.mentions
        if mentions and not facts.is_certain(mentions[0]):
            return None
        count = len(facts.fitting(mentions[0])) if mentions else len(facts.shapes)
        return Question("count", text, seen.number(count), mentions, frame="count")
    if before.frame == "read":
        texts = seen.in_order(facts)
        return Question("read", text, " ".join(texts), frame="read") if texts else None
    return None


# ------------------------------------------------------------------------- conversations


class Conversation:
    """What has been shown and said so far."""

    def __init__(self, voice, contents, fair):
        self.voice, self.contents, self.fair = voice, contents, fair
        self.shown, self.turns, self.current = [], [], None
        self.together = False  # whether the first turn showed two images
        self.before = None  # the last question about an image, while a follow-up can refer to it

    def show(self, images):
        """New images in this turn; the last one is what is talked about."""
        self.together = self.together or len(images) > 1
        self.shown += [i for i in images if self.contents[i] is not None]
        self.current = images[-1]

    def add(self, images, question, about):
        """One more turn."""
        talk = question.skill in ("chat", "other")
        index = None if talk or self.contents[about] is None else about
        self.turns.append(
            Turn(images, question.text, question.answer, question.skill, question, index)
        )
        self.before = None if talk or question.names is not None else question

    def fits(self, question, about):
        """Whether a question may be asked."""
        if question is None or question.text is None:
            return False
        return not (self.fair and denies(question, self.contents[about]))

    def ordinary(self, about, subject=""):
        """A question of any skill; with a subject, only of skills that can say it."""
        content = self.contents[about]
        table = steered(table_of(content)) if self.fair else table_of(content)
        voice = self.voice
        if subject:
            table = {k: v for k, v in table.items() if k not in ALONE}
            voice = voice.about(subject)
        shares, facts = {skill: entry[1] for skill, entry in table.items()}, seen_by(content)
        for _ in range(TRIES):
            skill = voice.weighted(shares)
            question = once(voice, content, facts, table, skill, self.fair)
            if question:
                return question
        return None

    def subject_of(self, index):
        """What an image among several may be called."""
        order = self.shown.index(index)
        names = EARLIER[order] if order in EARLIER else EARLIER[-1]
        from_end = order - len(self.shown)
        if from_end in EARLIER and not self.together and self.voice.chance(0.3):
            names = EARLIER[from_end]
        return self.voice.pick(names)

    def follow_up(self):
        """(question, index of the content) of a follow-up to the turn before, or None."""
        last = self.turns[-1].about if self.turns else None
        if not self.before or last is None or not isinstance(self.contents[last], Scene):
            return None
        if not self.voice.chance(0.65) or (last != self.shown[-1] and not self.together):
            return None
        facts = Facts(self.contents[last])
        for follow in (pronoun, another) if self.voice.chance(0.5) else (another, pronoun):
            question = follow(self.voice, facts, self.before)
            if self.fits(question, last):
                return question, last
        return None

    def last_about(self):
        """Index of the content that was asked about last; None before there is one."""
        return next((t.about for t in reversed(self.turns) if t.about is not None), None)

    def step(self, images):
        """(question, index of the content) of the next turn, or None."""
        voice, before, current = self.voice, self.before, self.current
        if images and before and voice.chance(0.4):
            question = repeated(voice, self.contents[current], before)
            if self.fits(question, current):
                return question, current
        follow = None if images else self.follow_up()
        if follow:
            return follow
        countable = all(isinstance(self.contents[i], Scene | Refusal) for i in self.shown)
        unclear = self.together and self.shown[-1] == 1  # two images at once: which one?
        unclear = unclear or (countable and not images and self.last_about() not in (None, current))
        if unclear or (len(self.shown) > 1 and countable and voice.chance(0.5)):
            about = voice.pick(self.shown)
            return self.ordinary(about, self.subject_of(about)), about
        return self.ordinary(current), current


def conversation(rng, contents, held_out=False, fair=True, turns=None):
    """A list of turns about some contents (Scene, Refusal, Pair, Clip, or None for no image).

    The first content is shown in the first turn, now and then with the second; the others may come
    in later turns.  turns: how many, else two to six.
    """
    voice = Voice(rng, held_out)
    talk = Conversation(voice, contents, fair)
    wanted = turns or voice.pick(TURNS)
    both = (
        len(contents) > 1 and all(isinstance(c, Scene) for c in contents[:2]) and voice.chance(0.15)
    )
    ahead = list(range(len(contents)))
    for number in range(min(wanted, MOST_TURNS)):
        images = ()
        if number == 0:
            images = (0, 1) if both else (0,)
        elif ahead and (voice.chance(0.45) or len(ahead) >= wanted - number):
            images = (ahead[0],)
        if images:
            del ahead[: len(images)]
            talk.show(images)
        question, about = talk.step(images)
        if question is None:
            break
        talk.add(
            images if contents[images[0] if images else 0] is not None else (), question, about
        )
    return talk.turns
