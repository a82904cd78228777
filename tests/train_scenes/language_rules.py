"""Answers found again by slow rules that share no code with `scripts.train_scenes.language`.

Requests are put in a form that a machine can read (FORMS); each rule takes what the request names
and a scene, and says whether an answer is right.
"""

import json
import math
import re
from itertools import pairwise

WORDS = {
    "gray": "grey", "violet": "purple", "ellipse": "oval", "rhombus": "diamond", "disc": "circle",
    "plus sign": "cross", "plus": "cross", "doughnut": "ring", "donut": "ring", "stroke": "line",
    "straight line": "line", "love heart": "heart", "crosses": "cross", "plus signs": "cross",
    "pluses": "cross", "love hearts": "heart", "straight lines": "line", "rhombuses": "diamond",
}  # fmt: skip
COLOURS = "red orange yellow green blue purple pink black white grey brown".split()
KINDS = "circle square triangle star cross diamond ring heart rectangle oval line arrow".split()
ANY = {"shape", "one", "object", "thing", "figure", "item", "geometric shape"}
FORMS = {
    "describe": "{image}", "list": "{image}", "count": "{things}", "colour": "{thing}",
    "shape": "{colour_word}", "place": "{thing}", "side": "{place}", "extreme": "{extreme}",
    "size.biggest": "biggest", "size.smallest": "smallest", "between": "{first}|{second}",
    "relation.left": "left|{two}", "relation.right": "right|{two}", "relation.above": "above|{two}",
    "relation.below": "below|{two}", "relation.bigger": "bigger|{two}",
    "relation.smaller": "smaller|{two}", "relation.is": "is|{first}|{side}|{second}",
    "yes_no.there": "there|{a_thing}", "yes_no.any": "any|{things}",
    "yes_no.this": "this|{a_thing}", "yes_no.colour": "colour|{thing}|{colour_word}",
    "yes_no.kind": "kind|{colour_word}|{a_kind}", "yes_no.number": "number|{number}|{things}",
    "yes_no.more": "more|{things}|{others}", "yes_no.place": "place|{a_thing}|{place}",
    "yes_no.anything": "anything", "yes_no.empty": "empty", "yes_no.text": "text",
    "locate": "locate|{thing}", "locate_all": "all|{things}", "locate_all.everything": "everything",
    "point": "point|{thing}", "point_all": "points|{things}", "read": "read",
    "colour.many": "many|{things}", "shape.many": "of|{colour_word}",
}  # fmt: skip
FORMS = {key: [text] for key, text in FORMS.items()}
FORMS["describe"] = FORMS["list"] = ["describe"]


def meaning(words):
    """(colour, kind) of `violet circles`, `the red one`, `an ellipse`; None for unknown words."""
    words = re.sub(r"^(the|an?) ", "", words.strip())
    colour = ""
    head, _, rest = words.partition(" ")
    if WORDS.get(head, head) in COLOURS:
        colour, words = WORDS.get(head, head), rest
    for candidate in (words, words.removesuffix("s"), words.removesuffix("es")):
        word = WORDS.get(candidate, candidate)
        if word in KINDS:
            return colour, word
        if word in ANY or not word:
            return colour, ""
    return None


def fits(scene, words):
    """The shapes that words fit."""
    meant = meaning(words)
    if meant is None:
        return []
    return [s for s in scene.shapes if s.colour.startswith(meant[0]) and meant[1] in ("", s.kind)]


def centre(shape):
    x1, y1, x2, y2 = shape.box
    return (x1 + x2) / 2, (y1 + y2) / 2


def area(shape):
    x1, y1, x2, y2 = shape.box
    return (x2 - x1) * (y2 - y1)


def cells(scene, shape):
    """(row, column) in the grid of thirds."""
    x, y = centre(shape)
    row = 0 if 3 * y < scene.height else 1 if 3 * y < 2 * scene.height else 2
    column = 0 if 3 * x < scene.width else 1 if 3 * x < 2 * scene.width else 2
    return row, column


def cell_of(place):
    """(row or None, column or None) of a place in words."""
    row = 0 if re.search("top|upper", place) else 2 if re.search("bottom|lower", place) else None
    column = 0 if "left" in place else 2 if "right" in place else None
    return (1, 1) if re.search("middle|cent", place) else (row, column)


def place_name(scene, shape):
    row, column = cells(scene, shape)
    side = ("left", "", "right")[column]
    if row == 1:
        return f"on the {side}" if side else "in the middle"
    return f"at the {('top', '', 'bottom')[row]} {side}".strip()


def inside(scene, place):
    row, column = cell_of(place)
    return [
        s
        for s in scene.shapes
        if row in (None, cells(scene, s)[0]) and column in (None, cells(scene, s)[1])
    ]


def named(answer):
    """[(colour, kind)] that an answer names, in order."""
    found = re.findall(rf"\b({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b", answer)
    return found


def is_in_order(scene, shapes):
    """From left to right, allowing for columns."""
    xs = [centre(s)[0] / scene.width for s in shapes]
    return all(b > a - 0.026 for a, b in pairwise(xs))


def match(scene, names):
    """Shapes of the scene of these names, one for each, in some order that is left to right."""
    rest, found = sorted(scene.shapes, key=centre), []
    for name in names:
        shape = next((s for s in rest if (s.colour, s.kind) == name), None)
        if shape is None:
            return None
        rest.remove(shape)
        found.append(shape)
    return found


def listed(scene, answer, shapes):
    """Whether an answer names exactly these shapes, in order."""
    names = named(answer)
    if sorted(names) != sorted((s.colour, s.kind) for s in shapes):
        return False
    found = match(scene, names)
    return found is not None and is_in_order(scene, found)


def boxes(answer):
    value = json.loads(answer)
    return value if isinstance(value, list) else [value]


def truth(answer):
    return {"Yes.": True, "Y": True, "No.": False, "N": False}[answer]


def wins(scene, side, first, second):
    """Whether the first is further left, bigger, ... than the second."""
    (ax, ay), (bx, by) = centre(first), centre(second)
    return {
        "left": ax < bx, "right": ax > bx, "above": ay < by, "below": ay > by,
        "bigger": area(first) > area(second), "smaller": area(first) < area(second),
    }[side]  # fmt: skip


def side_of(words):
    for side, pattern in (
        ("left", "left"), ("right", "right"), ("above", "above|over|higher|up"),
        ("below", "below|under|lower|down|beneath"), ("bigger", "bigger|larger"),
        ("smaller", "smaller"),
    ):  # fmt: skip
        if re.search(pattern, words):
            return side
    raise ValueError(words)


def only(shapes):
    assert len(shapes) == 1, shapes
    return shapes[0]


NUMBERS = "no one two three four five six".split()


def yes(scene, form, *parts):
    """The truth of a yes-or-no question."""
    if form in ("there", "any", "this"):
        return bool(fits(scene, parts[0]))
    if form == "colour":
        return only(fits(scene, parts[0])).colour == parts[1]
    if form == "kind":
        return only(fits(scene, f"{parts[0]} one")).kind == meaning(parts[1])[1]
    if form == "number":
        wanted = NUMBERS.index(parts[0]) if parts[0] in NUMBERS else int(parts[0])
        return len(fits(scene, parts[1])) == wanted
    if form == "more":
        return len(fits(scene, parts[0])) > len(fits(scene, parts[1]))
    if form == "place":
        return any(s in inside(scene, parts[1]) for s in fits(scene, parts[0]))
    if form == "is":
        return wins(
            scene, side_of(parts[1]), only(fits(scene, parts[0])), only(fits(scene, parts[2]))
        )
    return {"anything": bool(scene.shapes), "empty": not scene.shapes, "text": bool(scene.words)}[
        form
    ]


def is_between(scene, first, second, answer):
    """Whether an answer names the shape that lengthens the way between two others least."""
    a, b = centre(only(fits(scene, first))), centre(only(fits(scene, second)))
    others = [s for s in scene.shapes if centre(s) not in (a, b)]
    best = min(others, key=lambda s: math.dist(a, centre(s)) + math.dist(centre(s), b))
    return named(answer) == [(best.colour, best.kind)]


def is_right(scene, question):
    """Whether the answer to a question put in one of FORMS is right."""
    form, *parts = question.text.split("|")
    answer, skill = question.answer, question.skill
    count = len(scene.shapes)
    if skill in ("describe", "list"):
        if count > 6:
            return f"{count if count <= 10 else 'more than ten'} shapes" in answer
        if not count and not scene.words:
            return answer == "Nothing."
        if skill == "describe":
            shapes = match(scene, named(answer)) or []
            places = re.findall(
                r"(?:at the|on the|in the) (?:top|bottom|left|right|middle)(?: left| right)?",
                answer,
            )
            if places != [place_name(scene, s) for s in shapes]:
                return False
        written = all(f'"{w.text}"' in answer for w in scene.words)
        return listed(scene, answer, scene.shapes) and written
    if skill == "count":
        found = len(fits(scene, form))
        return answer == (str(found) if found <= 10 else "More than ten.")
    if skill == "colour":
        shapes = fits(scene, parts[0] if parts else form)
        return set(re.findall(r"\w+", answer.lower())) - {"and"} == {s.colour for s in shapes}
    if skill == "shape":
        shapes = fits(scene, f"{parts[0] if parts else form} one")
        return set(re.findall(rf"\b(?:{'|'.join(KINDS)})\b", answer)) == {s.kind for s in shapes}
    if skill == "place":
        return answer.lower() == place_name(scene, only(fits(scene, form))) + "."
    if skill == "side":
        return is_outermost(scene, form, answer) if answer.startswith("The ") else (
            listed(scene, answer, inside(scene, form))
            and (answer == "Nothing.") == (not inside(scene, form))
        )  # fmt: skip
    if skill == "size":
        best = (max if form == "biggest" else min)(scene.shapes, key=area)
        return answer == f"The {best.colour} {best.kind}."
    if skill == "between":
        return is_between(scene, form, parts[0], answer)
    if skill == "relation" and form != "is":
        first, second = parts[0].split(" or ")
        a, b = only(fits(scene, first)), only(fits(scene, second))
        winner = a if wins(scene, form, a, b) else b
        return fits(scene, answer.removeprefix("The ").rstrip(".")) == [winner]
    if skill in ("yes_no", "relation"):
        return truth(answer) == yes(scene, form, *parts)
    if skill == "read":
        return answer == (" ".join(w.text for w in scene.words) or "I don't see any text.")
    return located(scene, skill, form, parts, answer)


def is_outermost(scene, words, answer):
    """The leftmost, highest, ... shape."""
    axis = 0 if re.search("left|right", words) else 1
    last = bool(re.search("right|low|bottom|down|under", words))
    best = (max if last else min)(scene.shapes, key=lambda s: centre(s)[axis])
    return answer == f"The {best.colour} {best.kind}."


def located(scene, skill, form, parts, answer):
    """Boxes and points; unknown and absent things."""
    shapes = scene.shapes if form == "everything" else fits(scene, parts[0] if parts else form)
    if skill in ("absent", "unknown"):
        gone = {"I don't see one.", "No.", "N", "0"}
        return (
            answer in gone
            and not shapes
            and (skill == "absent" or meaning((parts or [form])[0]) is None)
        )
    if len(shapes) > 6:
        return answer.startswith("I see ") and answer.endswith("too many to list.")
    items = boxes(answer)
    if skill == "point":
        wanted = {(2 * round(x / 2), 2 * round(y / 2)) for x, y in map(centre, shapes)}
        return {tuple(item["point_2d"]) for item in items} == wanted and len(items) == len(shapes)
    if parts and parts[0] in ("text", "word", "writing"):
        return [(list(w.box), "text") for w in scene.words] == [
            (items[0]["bbox_2d"], items[0]["label"])
        ]
    found = [next((s for s in shapes if list(s.box) == item["bbox_2d"]), None) for item in items]
    if None in found or len(found) != len(shapes) or not is_in_order(scene, found):
        return False
    labels = [fits(scene, item["label"]) for item in items]
    return all(s in fitting for s, fitting in zip(found, labels, strict=True))
