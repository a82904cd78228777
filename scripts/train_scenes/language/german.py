"""German: words, names and requests."""

COLOURS = {
    "red": "rot", "orange": "orange", "yellow": "gelb", "green": "grün", "blue": "blau",
    "purple": "lila", "pink": "rosa", "black": "schwarz", "white": "weiß", "grey": "grau",
    "brown": "braun",
}  # fmt: skip
INVARIABLE = ("orange", "lila", "rosa")
KINDS = {  # (gender, singular, plural)
    "circle": ("m", "Kreis", "Kreise"), "square": ("n", "Quadrat", "Quadrate"),
    "triangle": ("n", "Dreieck", "Dreiecke"), "star": ("m", "Stern", "Sterne"),
    "cross": ("n", "Kreuz", "Kreuze"), "diamond": ("f", "Raute", "Rauten"),
    "ring": ("m", "Ring", "Ringe"), "heart": ("n", "Herz", "Herzen"),
    "rectangle": ("n", "Rechteck", "Rechtecke"), "oval": ("n", "Oval", "Ovale"),
    "line": ("f", "Linie", "Linien"), "arrow": ("m", "Pfeil", "Pfeile"),
    "": ("f", "Form", "Formen"),
}  # fmt: skip
PLACES = {
    "at the top left": "oben links", "at the top": "oben", "at the top right": "oben rechts",
    "on the left": "links", "in the middle": "in der Mitte", "on the right": "rechts",
    "at the bottom left": "unten links", "at the bottom": "unten",
    "at the bottom right": "unten rechts",
}  # fmt: skip
SHAPES, MORE, YES, NO, NOT_THERE = (
    "Formen",
    "Mehr als zehn.",
    "Ja.",
    "Nein.",
    "Ich sehe so etwas nicht.",
)
UNKNOWN = (
    "eine Katze",
    "einen Hund",
    "ein Auto",
    "ein Haus",
    "einen Baum",
    "einen Menschen",
    "eine Blume",
    "einen Vogel",
)
REQUESTS = {
    "describe": (
        "beschreibe das Bild.", "beschreibe dieses Bild.", "beschreib das Bild.", "was siehst du?",
        "was ist auf dem Bild?", "was ist auf dem Bild zu sehen?", "was zeigt das Bild?",
        "was siehst du auf dem Bild?", "was ist das?", "bitte beschreibe das Bild.",
        "beschreibe, was du siehst.", "was ist hier zu sehen?", "was ist da drauf?",
        "kannst du das Bild beschreiben?", "sag mir, was du siehst.", "Bildbeschreibung",
        "was habe ich gezeichnet?",
    ),
    "count": (
        "wie viele {things} gibt es?", "wie viele {things} siehst du?",
        "wie viele {things} sind auf dem Bild?", "wie viele {things} sind das?",
        "zähle die {things}.", "wieviele {things} sind zu sehen?", "Anzahl der {things}?",
        "wie viele {things} sind da?", "bitte zähle die {things}.",
        "wie viele {things} zeigt das Bild?",
    ),
    "colour": (
        "welche Farbe hat {the_thing}?", "was für eine Farbe hat {the_thing}?",
        "in welcher Farbe ist {the_thing}?", "sag mir, welche Farbe {the_thing} hat.",
        "nenne die Farbe {of_thing}.", "was ist die Farbe {of_thing}?",
        "wie ist die Farbe {of_thing}?", "die Farbe {of_thing}?",
    ),
    "yes_no": (
        "gibt es {a_thing}?", "siehst du {a_thing}?", "zeigt das Bild {a_thing}?",
        "hat das Bild {a_thing}?", "kannst du {a_thing} sehen?", "gibt es hier {a_thing}?",
        "siehst du irgendwo {a_thing}?", "gibt es auf dem Bild {a_thing}?",
    ),
}  # fmt: skip
_ENDINGS = {"m": "er", "f": "e", "n": "es"}
A, THE = {"m": "einen", "f": "eine", "n": "ein"}, {"m": "der", "f": "die", "n": "das"}


def _adjective(colour, ending):
    word = COLOURS[colour]
    return word if word in INVARIABLE else word + ending


def _joined(colour, noun, ending):
    return f"{_adjective(colour, ending)} {noun}" if colour else noun


def name(colour, kind):
    """`ein roter Kreis`."""
    gender, noun, _ = KINDS[kind]
    return f"{'eine' if gender == 'f' else 'ein'} {_joined(colour, noun, _ENDINGS[gender])}"


def a(colour, kind):
    """`einen roten Kreis`: the accusative."""
    gender, noun, _ = KINDS[kind]
    ending = "en" if gender == "m" else _ENDINGS[gender]
    return f"{A[gender]} {_joined(colour, noun, ending)}"


def many(colour, kind):
    """`rote Kreise`."""
    return _joined(colour, KINDS[kind][2], "e")


def the(kind):
    """`der Kreis`."""
    gender, noun, _ = KINDS[kind]
    return f"{THE[gender]} {noun}"


def of(kind):
    """`des Kreises`."""
    gender, noun, _ = KINDS[kind]
    if gender == "f":
        return f"der {noun}"
    return (
        "des Herzens"
        if kind == "heart"
        else f"des {noun}{'s' if kind in ('ring', 'star', 'arrow', 'oval') else 'es'}"
    )


def colour(word):
    """`Rot.`"""
    return COLOURS[word].capitalize() + "."


def placed(tint, kind, place):
    """`ein roter Kreis oben links`."""
    return f"{name(tint, kind)} {PLACES[place]}"


def sentence(parts):
    """`Ein roter Kreis links und ein Quadrat rechts.`"""
    text = " und ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return text[0].upper() + text[1:] + "."
