"""Pixels of scenes: `draw` turns contents into images, all in one style.

A style is a family of grounds and one of pens, named `ground/pen`.  STYLES_TRAINING are those that
training draws, STYLES_HELD_OUT those that it never does.
"""

import io

import numpy as np
from PIL import Image, ImageFilter

from scripts.train_scenes import photographs
from scripts.train_scenes.drawing import fonts, grounds, pens
from scripts.train_scenes.scene import COLOURS, SHADES, Refusal, Scene

STYLES_TRAINING = tuple(f"{g}/{p}" for g in grounds.GROUNDS for p in pens.PENS)
STYLES_HELD_OUT = tuple(
    [f"{g}/{p}" for g in grounds.HELD_OUT_GROUNDS for p in (*pens.PENS, *pens.HELD_OUT_PENS)]
    + [f"{g}/{p}" for g in ("plain", "squared", "gradient") for p in pens.HELD_OUT_PENS]
)
PEN_SHARES = (0.40, 0.14, 0.18, 0.08, 0.07, 0.08, 0.05)  # of `pens.PENS`
FILTERS = (  # by which an image drawn at another scale is resized
    Image.Resampling.BICUBIC, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR,
    Image.Resampling.HAMMING,
)  # fmt: skip
CLEAN = "plain/filled/clean"  # light, even paper, filled shapes, no noise: for tests and figures


def _style(rng, contents, style):
    """(ground, pen or None for a mixture, whether it is clean) for a name, a set or None."""
    if style == CLEAN:
        return "plain", "filled", True
    if style in ("held-out", "held_out"):
        style = STYLES_HELD_OUT[rng.integers(len(STYLES_HELD_OUT))]
    if style in (None, "training"):
        ground = next((c.ground for c in contents if isinstance(c, Scene)), None)
        ground = ground or grounds.GROUNDS[rng.integers(len(grounds.GROUNDS))]
        pen = pens.PENS[rng.choice(len(pens.PENS), p=PEN_SHARES)] if rng.random() < 0.8 else None
        return ground, pen, False
    if style not in STYLES_TRAINING + STYLES_HELD_OUT:
        raise ValueError(f"no style {style}")
    ground, pen = style.split("/")
    return ground, pen, False


def tints(rng, names):
    """{colour name: RGB}, varied around the colour of the table or another of its shades."""
    varied = {}
    for name in names:
        if name in ("white", "grey", "brown", "black"):
            shift = rng.integers(-8, 9) + rng.integers(-3, 4, 3)
        else:
            shift = rng.integers(-14, 15, 3)
        base = COLOURS[name]
        if rng.random() < 0.5:
            base, shift = SHADES[name][rng.integers(len(SHADES[name]))], shift // 2
        varied[name] = tuple(np.clip(base + shift, 0, 255).tolist())
    return varied


class Style:
    """One ground, one set of inks and pens, one scale and one kind of damage for some contents.

    Without `damage` there is no uneven light, blur, noise or compression.
    """

    def __init__(self, rng, contents, style=None, damage=True):
        scenes = [c for c in contents if isinstance(c, Scene)]
        shapes = [s for scene in scenes for s in scene.shapes]
        self.own = style in (None, "training")
        ground, self.pen, self.clean = _style(rng, contents, style)
        self.tints = tints(rng, sorted({s.colour for s in shapes if s.colour}))
        inks = [*self.tints.values(), *{s.paint for s in shapes if s.paint}]
        written = any(scene.words for scene in scenes)
        lines = any(s.kind == "line" for s in shapes)
        thin = written or self.pen not in ("filled", "edged", "crayon", "shaded")
        self.ground = grounds.Ground(rng, ground, inks, lines, thin, plain=self.clean)
        self.single = len(contents) == 1
        self.seed = int(rng.integers(1 << 62))
        self.pens = {}
        area = max(c.width * c.height for c in contents)
        most = max(1.0, min(2.5, (260_000 / area) ** 0.5))
        self.scale = 1.0 if rng.random() < 0.3 else float(0.85 * (most / 0.85) ** rng.random())
        self.filter = FILTERS[rng.integers(len(FILTERS))]
        self.sigma = rng.uniform(2, 10) if rng.random() < 0.2 else 0.0
        self.quality = int(rng.integers(50, 96)) if rng.random() < 0.22 else None
        self.blur = rng.uniform(0.3, 0.9) if rng.random() < 0.1 else 0.0
        if self.clean:
            self.scale = 1.0
        if self.clean or not damage:
            self.ground.damage, self.sigma, self.quality, self.blur = False, 0.0, None, 0.0
        self._backdrops, self._samples = {}, None

    def pen_of(self, shape, index, ink):
        """The pen of a shape: that of its index in a single image, else that of its kind."""
        key = index if self.single else shape.kind + shape.form
        if (key, ink) not in self.pens:
            number = index if self.single else sum(map(ord, key))
            rng = np.random.default_rng((self.seed, number))
            family = self.pen or pens.PENS[rng.choice(len(pens.PENS), p=PEN_SHARES)]
            self.pens[key, ink] = pens.make_pen(rng, family, ink, self._ground_colours())
        return self.pens[key, ink]

    def _ground_of(self, content):
        """The family of grounds of a content: its own, unless the style names one."""
        return content.ground if self.own and isinstance(content, Scene) else self.ground.name

    def _backdrop(self, width, height, ground):
        key = width, height, ground
        if key not in self._backdrops:
            self._backdrops[key] = self.ground.paint(width, height, self.scale, ground)
        return self._backdrops[key].copy()

    def _ground_colours(self):
        """RGB colours of the ground, [N, 3]."""
        if self._samples is None:
            small = next(iter(self._backdrops.values())).resize((5, 5), Image.Resampling.NEAREST)
            self._samples = np.asarray(small, dtype=np.float64).reshape(-1, 3)
        return self._samples

    def draw(self, rng, content):
        """One content -> uint8 array [H, W, 3]."""
        size = content.width, content.height
        if isinstance(content, Refusal) and content.what != "blank":
            if content.what == "noise":
                image = photographs.noise(rng, *size)
            else:
                image = photographs.photograph(rng, *size, content.held_out)
            return self._finished(rng, image, None)
        ground = self._ground_of(content)
        image = self._backdrop(*size, ground)
        if isinstance(content, Scene):
            self._ink(image, content)
        if image.size != size:
            image = image.resize(size, self.filter)
        return self._finished(rng, image, self.ground.shading(*size, ground))

    def _word_ink(self):
        """An RGB colour in clear contrast to the ground: the best of some, mostly dark ones."""
        rng = np.random.default_rng((self.seed, 0))
        dark, any_ink = rng.integers(0, 60, (6, 3)), rng.integers(0, 256, (24, 3))
        inks = np.concatenate([dark, any_ink, [(0, 0, 0), (255, 255, 255)]])
        inks = inks[6 * int(rng.random() < 0.6) :].astype(np.float64)
        clear = grounds.contrast(inks, self._ground_colours(), (160, 45))
        return tuple(inks[np.argmax(np.minimum(clear, 1))].astype(int).tolist())

    def _ink(self, image, scene):
        brush = pens.Brush(image, self.scale)
        for index, shape in enumerate(scene.shapes):
            ink = shape.paint or self.tints[shape.colour]
            brush.shape(shape, ink, self.pen_of(shape, index, ink))
        word_ink = self._word_ink() if scene.words else None
        for word in scene.words:
            x1, y1, x2, y2 = (round(v * self.scale) for v in word.box)
            mask = fonts.word_mask(word.text, word.font, max(1, x2 - x1), max(1, y2 - y1))
            brush.word(word, word_ink, mask)

    def _finished(self, rng, image, shading):
        """The image after light, blur, noise and compression."""
        if self.blur:
            image = image.filter(ImageFilter.BoxBlur(self.blur))
        if shading is not None or self.sigma:
            pixels = np.asarray(image, dtype=np.float32)
            pixels = pixels if shading is None else pixels * shading
            if self.sigma:
                pixels = pixels + self.sigma * _noise(rng, pixels.shape)
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        return np.array(compress(image, self.quality) if self.quality else image)


_POOL = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


def _noise(rng, shape):
    """Normal noise of a shape, cut from a fixed pool at a random place."""
    size = int(np.prod(shape))
    start = int(rng.integers(len(_POOL) - size)) if size < len(_POOL) else 0
    return np.resize(_POOL[start : start + size], shape)


def compress(image, quality):
    """The image after a JPEG round trip."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def draw(rng, contents, style=None, damage=True):
    """Scenes and refusals, all in one style -> list of uint8 arrays [H, W, 3].

    style: None for one that training draws on the scenes' own ground, `held-out` for any of
    STYLES_HELD_OUT, CLEAN, or a name of either set.  damage: as in `Style`.
    """
    chosen = Style(rng, contents, style, damage)
    return [chosen.draw(rng, content) for content in contents]
