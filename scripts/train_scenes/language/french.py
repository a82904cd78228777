"""French: words, names and requests."""

COLOURS = {  # masculine, feminine; the plural adds an s where there is none
    "red": ("rouge", "rouge"), "orange": ("orange", "orange"), "yellow": ("jaune", "jaune"),
    "green": ("vert", "verte"), "blue": ("bleu", "bleue"), "purple": ("violet", "violette"),
    "pink": ("rose", "rose"), "black": ("noir", "noire"), "white": ("blanc", "blanche"),
    "grey": ("gris", "grise"), "brown": ("marron", "marron"),
}  # fmt: skip
INVARIABLE = ("orange", "marron")
KINDS = {  # (gender, singular, plural)
    "circle": ("m", "cercle", "cercles"), "square": ("m", "carré", "carrés"),
    "triangle": ("m", "triangle", "triangles"), "star": ("f", "étoile", "étoiles"),
    "cross": ("f", "croix", "croix"), "diamond": ("m", "losange", "losanges"),
    "ring": ("m", "anneau", "anneaux"), "heart": ("m", "cœur", "cœurs"),
    "rectangle": ("m", "rectangle", "rectangles"), "oval": ("m", "ovale", "ovales"),
    "line": ("f", "ligne", "lignes"), "arrow": ("f", "flèche", "flèches"),
    "": ("f", "forme", "formes"),
}  # fmt: skip
PLACES = {
    "at the top left": "en haut à gauche", "at the top": "en haut",
    "at the top right": "en haut à droite", "on the left": "à gauche",
    "in the middle": "au milieu", "on the right": "à droite",
    "at the bottom left": "en bas à gauche", "at the bottom": "en bas",
    "at the bottom right": "en bas à droite",
}  # fmt: skip
SHAPES, MORE, YES, NO, NOT_THERE = "formes", "Plus de dix.", "Oui.", "Non.", "Je n'en vois pas."
UNKNOWN = (
    "un chat",
    "un chien",
    "une voiture",
    "une maison",
    "un arbre",
    "une personne",
    "une fleur",
    "un oiseau",
)
REQUESTS = {
    "describe": (
        "décris l'image.", "décrivez l'image.", "décris cette image.", "que vois-tu?",
        "que voyez-vous?", "qu'est-ce que tu vois?", "qu'y a-t-il sur l'image?",
        "qu'est-ce qu'il y a sur l'image?", "que montre l'image?", "qu'est-ce que c'est?",
        "décris ce que tu vois.", "peux-tu décrire l'image?", "dis-moi ce que tu vois.",
        "qu'est-ce que j'ai dessiné?", "description de l'image", "s'il te plaît, décris l'image.",
    ),
    "count.de": (
        "combien de {things} y a-t-il?", "combien de {things} vois-tu?",
        "combien de {things} voyez-vous?", "combien y a-t-il de {things}?", "compte les {things}.",
        "combien de {things} sur l'image?", "il y a combien de {things}?",
        "combien de {things} montre l'image?", "nombre de {things}?",
        "peux-tu compter les {things}?",
    ),
    "count.d": (
        "combien d'{things} y a-t-il?", "combien d'{things} vois-tu?",
        "combien d'{things} voyez-vous?", "combien y a-t-il d'{things}?", "compte les {things}.",
        "combien d'{things} sur l'image?", "il y a combien d'{things}?",
        "combien d'{things} montre l'image?", "nombre d'{things}?",
        "peux-tu compter les {things}?",
    ),
    "colour": (
        "de quelle couleur est {the_thing}?", "quelle est la couleur {of_thing}?",
        "quelle couleur a {the_thing}?", "{the_thing} est de quelle couleur?",
        "dis-moi la couleur {of_thing}.", "donne la couleur {of_thing}.", "la couleur {of_thing}?",
        "c'est quoi la couleur {of_thing}?",
    ),
    "yes_no": (
        "y a-t-il {a_thing}?", "est-ce qu'il y a {a_thing}?", "vois-tu {a_thing}?",
        "est-ce que tu vois {a_thing}?", "voyez-vous {a_thing}?", "il y a {a_thing}?",
        "l'image montre-t-elle {a_thing}?", "y a-t-il {a_thing} sur l'image?",
    ),
}  # fmt: skip


def _tinted(colour, noun, gender, plural=False):
    if not colour:
        return noun
    word = COLOURS[colour][gender == "f"]
    if plural and colour not in ("orange", "brown") and not word.endswith("s"):
        word += "s"
    return f"{noun} {word}"


def name(colour, kind):
    """`un cercle rouge`."""
    gender, noun, _ = KINDS[kind]
    return f"{'une' if gender == 'f' else 'un'} {_tinted(colour, noun, gender)}"


a = name


def many(colour, kind):
    """`cercles rouges`."""
    gender, _, noun = KINDS[kind]
    return _tinted(colour, noun, gender, plural=True)


def _elides(noun):
    return noun[0] in "aeiouéo"


def count_key(_colour, kind):
    """Which of the two counting forms goes with a kind: `de` or `d'`."""
    return "count.d" if _elides(KINDS[kind][2]) else "count.de"


def the(kind):
    """`le cercle`."""
    gender, noun, _ = KINDS[kind]
    return f"l'{noun}" if _elides(noun) else f"{'la' if gender == 'f' else 'le'} {noun}"


def of(kind):
    """`du cercle`."""
    gender, noun, _ = KINDS[kind]
    if _elides(noun):
        return f"de l'{noun}"
    return f"de la {noun}" if gender == "f" else f"du {noun}"


def colour(word):
    """`Rouge.`"""
    return COLOURS[word][0].capitalize() + "."


def placed(tint, kind, place):
    """`un cercle rouge en haut à gauche`."""
    return f"{name(tint, kind)} {PLACES[place]}"


def sentence(parts):
    """`Un cercle rouge à gauche et un carré bleu à droite.`"""
    text = " et ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return text[0].upper() + text[1:] + "."
