"""Spanish: words, names and requests."""

COLOURS = {  # masculine, feminine
    "red": ("rojo", "roja"), "orange": ("naranja", "naranja"), "yellow": ("amarillo", "amarilla"),
    "green": ("verde", "verde"), "blue": ("azul", "azul"), "purple": ("morado", "morada"),
    "pink": ("rosa", "rosa"), "black": ("negro", "negra"), "white": ("blanco", "blanca"),
    "grey": ("gris", "gris"), "brown": ("marrón", "marrón"),
}  # fmt: skip
PLURALS = {
    "azul": "azules",
    "gris": "grises",
    "marrón": "marrones",
    "naranja": "naranja",
    "rosa": "rosa",
}
KINDS = {  # (gender, singular, plural)
    "circle": ("m", "círculo", "círculos"), "square": ("m", "cuadrado", "cuadrados"),
    "triangle": ("m", "triángulo", "triángulos"), "star": ("f", "estrella", "estrellas"),
    "cross": ("f", "cruz", "cruces"), "diamond": ("m", "rombo", "rombos"),
    "ring": ("m", "anillo", "anillos"), "heart": ("m", "corazón", "corazones"),
    "rectangle": ("m", "rectángulo", "rectángulos"), "oval": ("m", "óvalo", "óvalos"),
    "line": ("f", "línea", "líneas"), "arrow": ("f", "flecha", "flechas"),
    "": ("f", "forma", "formas"),
}  # fmt: skip
PLACES = {
    "at the top left": "arriba a la izquierda", "at the top": "arriba",
    "at the top right": "arriba a la derecha", "on the left": "a la izquierda",
    "in the middle": "en el centro", "on the right": "a la derecha",
    "at the bottom left": "abajo a la izquierda", "at the bottom": "abajo",
    "at the bottom right": "abajo a la derecha",
}  # fmt: skip
SHAPES, MORE, YES, NO, NOT_THERE = "formas", "Más de diez.", "Sí.", "No.", "No veo ninguno."
UNKNOWN = (
    "un gato",
    "un perro",
    "un coche",
    "una casa",
    "un árbol",
    "una persona",
    "una flor",
    "un pájaro",
)
REQUESTS = {
    "describe": (
        "describe la imagen.", "describe esta imagen.", "describa la imagen.", "¿qué ves?",
        "¿qué ves en la imagen?", "¿qué hay en la imagen?", "¿qué muestra la imagen?",
        "¿qué es esto?", "¿qué se ve en la imagen?", "describe lo que ves.",
        "¿puedes describir la imagen?", "dime qué ves.", "¿qué he dibujado?",
        "descripción de la imagen", "¿qué aparece en la imagen?", "por favor, describe la imagen.",
    ),
    "count.m": (
        "¿cuántos {things} hay?", "¿cuántos {things} ves?", "¿cuántos {things} hay en la imagen?",
        "cuenta los {things}.", "¿cuántos {things} puedes ver?", "dime cuántos {things} hay.",
        "¿cuántos {things} son?", "número de {things}", "¿cuántos {things} muestra la imagen?",
    ),
    "count.f": (
        "¿cuántas {things} hay?", "¿cuántas {things} ves?", "¿cuántas {things} hay en la imagen?",
        "cuenta las {things}.", "¿cuántas {things} puedes ver?", "dime cuántas {things} hay.",
        "¿cuántas {things} son?", "número de {things}", "¿cuántas {things} muestra la imagen?",
    ),
    "colour": (
        "¿de qué color es {the_thing}?", "¿qué color tiene {the_thing}?",
        "¿cuál es el color {of_thing}?", "dime el color {of_thing}.",
        "¿de qué color ves {the_thing}?", "el color {of_thing}", "¿{the_thing} es de qué color?",
        "dime de qué color es {the_thing}.",
    ),
    "yes_no": (
        "¿hay {a_thing}?", "¿hay {a_thing} en la imagen?", "¿ves {a_thing}?",
        "¿puedes ver {a_thing}?", "¿se ve {a_thing}?", "¿la imagen muestra {a_thing}?",
        "¿aparece {a_thing}?", "¿tiene la imagen {a_thing}?",
    ),
}  # fmt: skip


def _tinted(colour, noun, gender, plural=False):
    if not colour:
        return noun
    word = COLOURS[colour][gender == "f"]
    return f"{noun} {PLURALS.get(word, word + 's') if plural else word}"


def name(colour, kind):
    """`un círculo rojo`."""
    gender, noun, _ = KINDS[kind]
    return f"{'una' if gender == 'f' else 'un'} {_tinted(colour, noun, gender)}"


a = name


def many(colour, kind):
    """`círculos rojos`."""
    gender, _, noun = KINDS[kind]
    return _tinted(colour, noun, gender, plural=True)


def count_key(_colour, kind):
    """The counting form of a kind's gender."""
    return f"count.{KINDS[kind][0]}"


def the(kind):
    """`el círculo`."""
    gender, noun, _ = KINDS[kind]
    return f"{'la' if gender == 'f' else 'el'} {noun}"


def of(kind):
    """`del círculo`."""
    gender, noun, _ = KINDS[kind]
    return f"de la {noun}" if gender == "f" else f"del {noun}"


def colour(word):
    """`Rojo.`"""
    return COLOURS[word][0].capitalize() + "."


def placed(tint, kind, place):
    """`un círculo rojo arriba a la izquierda`."""
    return f"{name(tint, kind)} {PLACES[place]}"


def sentence(parts):
    """`Un círculo rojo a la izquierda y un cuadrado azul a la derecha.`"""
    text = " y ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return text[0].upper() + text[1:] + "."
