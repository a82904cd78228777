"""What an image, a pair of images or a video shows: the contract between drawing and language.

Nothing here draws and nothing here speaks.  Coordinates are even integers, in pixels of the image
that the model sees; a box is that of the drawn ink.
"""

from dataclasses import dataclass, field

import numpy as np

COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 220, 40),
    "green": (40, 165, 70),
    "blue": (40, 80, 220),
    "purple": (140, 50, 180),
    "pink": (245, 130, 185),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
    "grey": (128, 128, 128),
    "brown": (120, 72, 30),
}
SHADES = {  # more RGB colours of each name: those of CSS, of plotting and of painting programs
    "red": ((255, 0, 0), (214, 39, 40), (204, 0, 0), (237, 28, 36)),
    "orange": ((255, 165, 0), (255, 127, 14), (255, 140, 0)),
    "yellow": ((255, 255, 0), (255, 235, 59), (255, 221, 0)),
    "green": ((0, 128, 0), (0, 200, 0), (44, 160, 44), (34, 177, 76), (76, 175, 80)),
    "blue": ((0, 0, 255), (31, 119, 180), (63, 72, 204), (30, 100, 255)),
    "purple": ((128, 0, 128), (148, 103, 189), (163, 73, 164), (102, 51, 153)),
    "pink": ((255, 192, 203), (255, 105, 180), (227, 119, 194), (255, 174, 201)),
    "black": ((0, 0, 0),),
    "white": ((255, 255, 255),),
    "grey": ((105, 105, 105), (160, 160, 160)),
    "brown": ((139, 69, 19), (140, 86, 75), (150, 75, 35)),
}
KINDS = (
    "circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart",
    "rectangle", "oval", "line", "arrow",
)  # fmt: skip

# Pairs never drawn and never named in training: seeing them needs colour and kind apart.
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("blue", "heart"),
        ("green", "ring"),
        ("yellow", "cross"),
        ("purple", "triangle"),
    }
)
PAIRS = tuple((c, k) for c in COLOURS for k in KINDS if (c, k) not in HELD_OUT)

TRAINING, EVALUATION = 0, 1  # first element of a seed's spawn key

CELL = 28  # one language-model token covers 28 x 28 pixels


def generator(seed, *key):
    """An independent stream of random numbers for (seed, key)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@dataclass(frozen=True)
class Limits:
    """What may be drawn: areas in pixels, sides in pixels, frames and seconds of a video."""

    image_area: int = 75_264
    pair_area: int = 50_176  # of each of a pair's images
    frame_area: int = 28_224  # of each frame of a video
    least_side: int = 56
    aspect: float = 8.0  # longer side over shorter side
    least_frames: int = 2
    most_frames: int = 32
    seconds: float = 16.0


@dataclass(frozen=True)
class Shape:
    """One drawn shape; `box` is (x1, y1, x2, y2) in pixels, even integers, that of the drawn ink.

    angle: degrees clockwise from the upright form (an arrow's upright form points right, a line's
    is horizontal).  stretch: width over height before the rotation.  proportion: the kind's own
    inner measure (0: the usual one; see `drawing.outlines`).

    An empty `colour` stands for one without a name, given as RGB in `paint`; an empty `kind` for
    one without a name: a `form` of `forms.unnamed_outline`, and its corners in fractions of the
    box.
    """

    colour: str
    kind: str
    box: tuple[int, int, int, int]
    angle: float = 0.0
    stretch: float = 1.0
    proportion: float = 0.0
    paint: tuple[int, int, int] | None = None
    form: str = ""
    outline: tuple[tuple[float, float], ...] | None = None

    @property
    def name(self):
        """`red circle`."""
        return f"{self.colour} {self.kind}"

    @property
    def centre(self):
        """(x, y) in pixels."""
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def size(self):
        """The longer side of the box in pixels."""
        x1, y1, x2, y2 = self.box
        return max(x2 - x1, y2 - y1)


@dataclass(frozen=True)
class Word:
    """A written word; `box` as a shape's; `font` is an index into `drawing.fonts`."""

    text: str
    box: tuple[int, int, int, int]
    font: int = 0


@dataclass(frozen=True)
class Scene:
    """An image's contents: its size in pixels, its shapes sorted by centre x (then y), its words.

    ground: name of the family of grounds that it is drawn on.  clear: whether the places of the
    shapes and their order from left to right are beyond doubt.
    """

    width: int
    height: int
    shapes: tuple[Shape, ...]
    words: tuple[Word, ...] = ()
    ground: str = "plain"
    clear: bool = False


@dataclass(frozen=True)
class Refusal:
    """An image without shapes; what: `photograph`, `noise` or `blank`.

    held_out: whether a photograph comes from the files that training never reads.
    """

    width: int
    height: int
    what: str
    held_out: bool = False


@dataclass(frozen=True)
class Change:
    """One difference; what: `removed`, `added`, `coloured`, `moved`, `resized` or `kind`.

    before, after: the shape in the first and in the second image (None where it is absent).
    """

    what: str
    before: Shape | None
    after: Shape | None


@dataclass(frozen=True)
class Pair:
    """Two images' contents with 0, 1 or 2 changes; the images may have different sizes."""

    before: Scene
    after: Scene
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A short video's contents.

    frames: one Scene per frame; times: its second, maybe uneven; appears: {shape name: seconds of
    the first frame that shows it}; moves: {shape name: "left", "right", "up" or "down"}.
    """

    frames: tuple[Scene, ...]
    times: tuple[float, ...]
    appears: dict[str, float] = field(default_factory=dict)
    moves: dict[str, str] = field(default_factory=dict)
