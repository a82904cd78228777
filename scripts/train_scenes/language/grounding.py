"""Questions about one scene that are answered with boxes or points in pixels."""

import json

from scripts.train_scenes.language.facts import MOST
from scripts.train_scenes.language.names import plural, refer
from scripts.train_scenes.language.question import Question
from scripts.train_scenes.language.seen import too_many

WRITING = ("text", "text", "word", "writing")
EVERYTHING = ("shape", "shape", "shape", "object", "figure", "thing", "item")


def even(value):
    """The nearest even integer."""
    return 2 * round(value / 2)


def box_json(shape, label):
    """Qwen2.5-VL's form of a box in absolute pixels."""
    return {"bbox_2d": list(shape.box), "label": label}


def point_json(shape, label):
    """Qwen2.5-VL's form of a point in absolute pixels: the centre of the shape's box."""
    return {"point_2d": [even(v) for v in shape.centre], "label": label}


FORMS = {"locate": box_json, "point": point_json}


def ask_one(voice, facts, skill):
    """The box or the point of one shape, called by its name or by colour or kind alone."""
    known = facts.single
    if voice.chance(0.1) or not known:
        return several(voice, facts, skill)
    if voice.chance(0.5):
        known = [k for k in known if all(k[0])] or known
    return one(voice, skill, *voice.pick(known))


def one(voice, skill, mention, shape, key=None, name=None):
    """The box or the point of a shape; `name` it by a label of its own."""
    thing = refer(voice, *mention)
    text = voice.say(key or skill, thing=thing.said)
    answer = json.dumps(FORMS[skill](shape, name or thing.label))
    mentions = () if name else (mention,)
    return Question(skill, text, answer, mentions, focus=shape, frame=skill)


def several(voice, facts, skill):
    """Asked for one where there are several of them: a list of all."""
    if not facts.named or len(facts.shapes) < 2:
        return None
    shape = voice.pick(facts.shapes)
    mention = voice.pick(((shape.colour, shape.kind), ("", shape.kind), (shape.colour, "")))
    shapes = facts.fitting(mention)
    if not 1 < len(shapes) <= MOST:
        return None
    thing, ordered = refer(voice, *mention, counted=True), facts.order(shapes)
    if not ordered:
        return None
    answer = json.dumps([FORMS[skill](s, s.name) for s in ordered])
    whole = "locate_all" if skill == "locate" else skill
    return Question(whole, voice.say(skill, thing=thing.said), answer, (mention,))


def ask_locate(voice, facts):
    """The box of one shape, or of the only word."""
    if len(facts.words) == 1 and voice.chance(0.25):
        answer = json.dumps(box_json(facts.words[0], "text"))
        return Question("locate", voice.say("locate", thing=voice.pick(WRITING)), answer)
    return ask_one(voice, facts, "locate")


def ask_point(voice, facts):
    """The point of one shape, or those of all."""
    if voice.knows("point_all") and voice.chance(0.12):
        return ask_all(voice, facts, "point_all")
    return ask_one(voice, facts, "point")


def ask_locate_all(voice, facts):
    """The boxes of all shapes, of one kind or of one colour, from left to right."""
    return ask_all(voice, facts, "locate_all")


def ask_all(voice, facts, key):
    """Boxes or points of all that a mention fits."""
    if not facts.named or not facts.shapes:
        return None
    if key == "locate_all" and voice.knows("locate_all.everything") and voice.chance(0.25):
        text = voice.say("locate_all.everything")
        return _all(facts, key, text, facts.shapes, "shapes", ())
    mention = ("", "")
    if voice.chance(0.55):
        shape = voice.pick(facts.shapes)
        mention = (shape.colour, "") if voice.chance(0.35) else ("", shape.kind)
        if voice.chance(0.1):
            mention = (shape.colour, shape.kind)
    if any(mention):
        name = refer(voice, *mention, counted=True)
        said, label, mentions = name.said, name.label, (mention,)
    else:
        said, label, mentions = voice.pick(EVERYTHING), "shape", ()
    text = voice.say(key, thing=said, things=plural(said))
    return _all(facts, key, text, facts.fitting(mention), plural(label), mentions)


def _all(facts, key, text, shapes, things, mentions):
    form = point_json if key == "point_all" else box_json
    skill = "point" if key == "point_all" else "locate_all"
    if len(shapes) > MOST:
        return Question(skill, text, too_many(len(shapes), things), mentions)
    ordered = facts.order(shapes)
    if not ordered:
        return None
    answer = json.dumps([form(s, s.name) for s in ordered])
    return Question(skill, text, answer, mentions, frame="locate_all")
