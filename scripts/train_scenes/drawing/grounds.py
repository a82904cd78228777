"""Grounds: what shapes are drawn on, at any size, its colours far from those of the inks.

A `Ground` is chosen once for all images of one style and paints any size at any scale.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from scripts.train_scenes.drawing import fonts

GROUNDS = (
    "plain", "gradient", "squared", "ruled", "frame", "ground_line", "specks", "photographed",
    "toolbar",
)  # fmt: skip
HELD_OUT_GROUNDS = ("striped", "chequered", "dotted", "isometric", "woven")
FAR, FAR_THIN = (105, 26), (132, 32)  # least contrast of filled and of thin inks: `contrast`
LABELS = (
    "File Edit View Help", "Untitled", "Home Insert Draw", "Fig. 1", "page 2", "Drawing 1", "Save",
    "Copy Paste", "Tools Window", "100 %", "sketch.png", "Sheet 3", "Undo Redo", "draft",
)  # fmt: skip


def _perceived(colours):
    """CIE Lab coordinates [N, 3] of RGB colours [N, 3], those of hue weighted by 0.4."""
    linear = (np.asarray(colours, dtype=np.float64) / 255) ** 2.2
    xyz = linear @ np.array([(0.434, 0.213, 0.018), (0.376, 0.715, 0.109), (0.190, 0.072, 0.873)])
    x, y, z = np.cbrt(xyz.T + 0.002)
    return np.stack([116 * y - 16, 200 * (x - y), 80 * (y - z)], 1)


def contrast(colours, inks, far):
    """Least contrast of RGB colours [N, 3] with inks [M, 3], per colour; 1 or more is clear.

    far: the RGB distance and the distance as perceived that are clear.
    """
    if len(inks) == 0:
        return np.full(len(colours), np.inf)
    plain = np.linalg.norm(colours[:, None] - inks[None], axis=-1).min(1)
    seen = np.linalg.norm(_perceived(colours)[:, None] - _perceived(inks)[None], axis=-1).min(1)
    return np.minimum(plain / far[0], seen / far[1])


def paper(rng, inks, light, far):
    """An RGB colour, mostly light, in clear contrast to inks: the best of 240 if none is."""
    colours = rng.uniform(0, 256, (240, 3))
    if rng.random() < light:
        bright = rng.uniform(206, 256, (40, 1)) + rng.normal(0, 5, (40, 3))
        colours[:40] = np.clip(bright, 0, 255)
        if rng.random() < 0.4:
            colours[0] = 255
    clear = np.minimum(contrast(colours, inks, far), 1)
    return colours[np.argmax(clear)]


class Ground:
    """A style of ground.

    inks: RGB colours of what is drawn on it; lines: whether shapes of the kind `line` are; thin:
    whether strokes are thin; plain: light and even.
    """

    def __init__(self, rng, name, inks, lines=False, thin=False, plain=False):
        self.name, self.lines = name, lines
        self.inks = np.array(list(inks), dtype=np.float64).reshape(-1, 3)
        self.rng_seed = int(rng.integers(1 << 62))
        light = 0.88 if name in ("squared", "ruled", "photographed") else 0.76
        self.far = FAR_THIN if thin else FAR
        self.base = paper(rng, self.inks, light, self.far)
        if plain:
            self.base = np.full(3, rng.uniform(235, 255))
        self.light = rng.random()
        self.damage = not plain
        self.sheet = str(rng.choice(("plain", "squared", "ruled", "plain")))

    def shaded(self, name):
        """Whether light falls unevenly on a ground of this family."""
        often = name in ("squared", "ruled", "plain") and self.light < 0.15
        return self.damage and (often or name == "photographed")

    def paint(self, width, height, scale, name):
        """A ground of this family as an RGB image of width x height pixels drawn at `scale`."""
        rng = np.random.default_rng(self.rng_seed)
        size = round(width * scale), round(height * scale)
        name = self.sheet if name == "photographed" else name
        image = Image.new("RGB", size, _rgb(self.base))
        return getattr(self, f"_{name}")(rng, image, scale) or image

    def shading(self, width, height, name):
        """Factors of light [H, W, 3] over a photographed sheet, or None."""
        if not self.shaded(name):
            return None
        rng = np.random.default_rng(self.rng_seed + 1)
        depth = rng.uniform(0.1, 0.34)
        coarse = rng.random((int(rng.integers(2, 4)), int(rng.integers(2, 4))))
        coarse = 1.03 - depth * (coarse - coarse.min()) / max(np.ptp(coarse), 1e-6)
        field = Image.fromarray(coarse.astype(np.float32))
        factors = np.asarray(field.resize((width, height), Image.Resampling.BICUBIC))[..., None]
        return factors * rng.normal(1, 0.025, 3).astype(np.float32)

    def near(self, rng, spread, tries=24):
        """A colour near the paper's such that every mixture of the two is in clear contrast."""
        others = np.clip(self.base + rng.normal(0, spread, (tries, 3)), 0, 255)
        for share in (1.0, 0.5, 0.25):
            clear = np.min(
                [
                    contrast(self.base + t * share * (others - self.base), self.inks, self.far)
                    for t in (0.33, 0.67, 1)
                ],
                axis=0,
            )
            if (clear >= 1).any():
                return self.base + share * (others[np.argmax(clear >= 1)] - self.base)
        return self.base

    # ------------------------------------------------------------------ each family

    def _plain(self, rng, image, scale):
        return None

    def _gradient(self, rng, image, scale):
        other = self.near(rng, 90)
        width, height = image.size
        if rng.random() < 0.25:
            x, y = np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 32))
            centre = rng.uniform(-0.6, 0.6, 2)
            ramp = np.hypot(x - centre[0], y - centre[1]) / 2.2
        else:
            angle = rng.uniform(0, 2 * math.pi)
            x, y = np.meshgrid(np.linspace(-0.5, 0.5, 32), np.linspace(-0.5, 0.5, 32))
            ramp = x * math.cos(angle) + y * math.sin(angle)
            ramp = (ramp - ramp.min()) / np.ptp(ramp)
        ramp = np.clip(ramp, 0, 1)[..., None]
        pixels = self.base + ramp * (other - self.base)
        small = Image.fromarray(pixels.astype(np.uint8))
        return small.resize((width, height), Image.Resampling.BILINEAR)

    def _line_colour(self, rng):
        """The RGB of thin lines of any strength on the paper, less strong beside lines and ink."""
        if rng.random() < 0.4:
            target = np.full(3, 0.0 if self.base.sum() > 380 else 255.0)
        else:
            target = np.array(
                [(90, 140, 210), (120, 190, 230), (210, 110, 110), (110, 170, 130), (150, 150, 160)]
            )[rng.integers(5)].astype(np.float64)
        colour = self.base + rng.uniform(0.08, 0.85) * (target - self.base)
        far = FAR if self.lines else (60, 15)
        while contrast(colour[None], self.inks, far)[0] < 1:
            colour = 0.75 * colour + 0.25 * self.base
            if np.abs(colour - self.base).max() < 6:
                break
        return _rgb(colour)

    def _rules(self, rng, image, scale, across, colour=None):
        width, height = image.size
        draw = ImageDraw.Draw(image)
        period = math.exp(rng.uniform(math.log(8), math.log(36))) * scale
        thickness = max(1, round(rng.uniform(0.5, 1.5) * scale))
        colour = colour or self._line_colour(rng)
        offset = rng.uniform(0, period, 2)
        for y in np.arange(offset[0], height, period).round().tolist():
            draw.line((0, y, width, y), fill=colour, width=thickness)
        if across:
            for x in np.arange(offset[1], width, period).round().tolist():
                draw.line((x, 0, x, height), fill=colour, width=thickness)

    def _squared(self, rng, image, scale):
        self._rules(rng, image, scale, across=True)

    def _ruled(self, rng, image, scale):
        self._rules(rng, image, scale, across=False)
        if rng.random() < 0.4 and not self.lines:
            x = rng.uniform(0.03, 0.14) * image.size[0]
            colour = _rgb(0.5 * self.base + 0.5 * np.array((225, 120, 120)))
            width = max(1, round(scale))
            ImageDraw.Draw(image).line((x, 0, x, image.size[1]), fill=colour, width=width)

    def _frame(self, rng, image, scale):
        """A line around the page, or a page on a table."""
        width, height = image.size
        draw = ImageDraw.Draw(image)
        margin = min(14.0, 0.08 * min(width, height) / scale) * scale
        if rng.random() < 0.5:
            tone = self.near(rng, 120)
            colour = _rgb(0.7 * tone.mean() + 0.3 * tone)
            thickness = max(1, round(rng.uniform(0.25, 0.9) * margin))
            draw.rectangle((0, 0, width - 1, height - 1), outline=colour, width=thickness)
        else:
            inset = rng.uniform(0.1, 0.5) * margin
            box = (inset, inset, width - 1 - inset, height - 1 - inset)
            thickness = max(1, round(rng.uniform(0.8, 2.2) * scale))
            draw.rectangle(box, outline=self._line_colour(rng), width=thickness)

    def _ground_line(self, rng, image, scale):
        """A line to stand on, the ground below it often of another colour."""
        width, height = image.size
        draw = ImageDraw.Draw(image)
        y = rng.uniform(0.5, 0.92) * height
        if self.lines or rng.random() < 0.5:
            below = self.near(rng, 80)
            draw.rectangle((0, y, width, height), fill=_rgb(below))
        if not self.lines:
            thickness = max(1, round(rng.uniform(0.6, 2.5) * scale))
            draw.line((0, y, width, y), fill=self._line_colour(rng), width=thickness)

    def _specks(self, rng, image, scale):
        width, height = image.size
        draw = ImageDraw.Draw(image)
        count = int(width * height / scale**2 / math.exp(rng.uniform(math.log(150), math.log(900))))
        radius = rng.uniform(0.3, 1.2) * scale
        spots = (rng.random((count, 2)) * (width, height)).tolist()
        strength = rng.uniform(0.15, 0.8)
        tints = [_rgb(self.base + strength * (c - self.base)) for c in rng.uniform(0, 256, (4, 3))]
        for i, (x, y) in enumerate(spots):
            r = radius * (0.6 + 0.4 * (i % 3))
            draw.rectangle((x - r, y - r, x + r, y + r), fill=tints[i % 4])

    def _toolbar(self, rng, image, scale):
        """A bar with small grey marks and words at the top; now and then a caption below."""
        width, height = image.size
        draw = ImageDraw.Draw(image)
        room = min(28, 0.17 * height / scale) * scale
        bar = rng.uniform(0.6, 0.95) * room
        tone = rng.uniform(0.35, 0.95) * 255 + rng.normal(0, 6, 3)
        tone = np.clip(tone, 0, 255)
        draw.rectangle((0, 0, width, bar), fill=_rgb(tone))
        dark = _rgb(tone * 0.35 if tone.sum() > 330 else 255 - (255 - tone) * 0.3)
        if rng.random() < 0.6:
            draw.line((0, bar, width, bar), fill=dark, width=max(1, round(scale)))
        self._bar_marks(rng, draw, width, bar, scale, dark)

    def _bar_marks(self, rng, draw, width, bar, scale, ink):
        """Icons of a few strokes and a label along a bar."""
        x, side = 3 * scale, 0.5 * bar
        label = LABELS[rng.integers(len(LABELS))]
        size = max(6, round(rng.uniform(0.45, 0.7) * bar))
        if rng.random() < 0.75:
            draw.text((x, 0.45 * bar), label, fill=ink, font=fonts.font(int(rng.integers(8)), size),
                      anchor="lm")  # fmt: skip
            x += draw.textlength(label, font=fonts.font(0, size)) + 8 * scale
        while x < width - side and rng.random() < 0.85:
            y = 0.25 * bar
            for _ in range(3):
                a, b = rng.random((2, 2)) * side + (x, y)
                draw.line((*a, *b), fill=ink, width=max(1, round(0.7 * scale)))
            x += side * rng.uniform(1.4, 2.5)

    # ------------------------------------------------------------------ held out

    def _second(self, rng):
        return _rgb(self.near(rng, 28))

    def _striped(self, rng, image, scale):
        width, height = image.size
        period, slope = rng.uniform(10, 40) * scale, rng.uniform(-1.2, 1.2)
        draw, colour = ImageDraw.Draw(image), self._second(rng)
        for x in np.arange(-abs(slope) * height, width + abs(slope) * height, period):
            top = x + slope * height
            draw.polygon(((x, height), (x + period / 2, height), (top + period / 2, 0), (top, 0)),
                         fill=colour)  # fmt: skip

    def _chequered(self, rng, image, scale):
        width, height = image.size
        period = max(2, round(rng.uniform(6, 24) * scale))
        rows, columns = np.mgrid[:height, :width] // period
        mask = Image.fromarray((((rows + columns) % 2) * 255).astype(np.uint8))
        image.paste(self._second(rng), (0, 0), mask)

    def _dotted(self, rng, image, scale):
        width, height = image.size
        period, r = rng.uniform(7, 20) * scale, rng.uniform(0.5, 1.3) * scale
        draw, colour = ImageDraw.Draw(image), self._line_colour(rng)
        for y in np.arange(period / 2, height, period):
            for x in np.arange(period / 2, width, period):
                draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def _isometric(self, rng, image, scale):
        width, height = image.size
        draw, colour = ImageDraw.Draw(image), self._line_colour(rng)
        period = rng.uniform(12, 30) * scale
        for slope in (0.577, -0.577):
            for y in np.arange(-width, height + width, period):
                draw.line((0, y, width, y + slope * width), fill=colour, width=max(1, int(scale)))
        for x in np.arange(0, width, period * 0.866):
            draw.line((x, 0, x, height), fill=colour, width=max(1, int(scale)))

    def _woven(self, rng, image, scale):
        """Cloth or rough paper: streaks of noise in both directions."""
        width, height = image.size
        streaks = rng.normal(0, 1, (height, 1)) + rng.normal(0, 1, (1, width))
        grain = streaks + rng.normal(0, 0.8, (height, width))
        pixels = np.asarray(image) + rng.uniform(4, 11) * grain[..., None]
        woven = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        return woven.filter(ImageFilter.BoxBlur(0.5))


def _rgb(colour):
    """An RGB tuple of bytes."""
    return tuple(np.clip(np.round(colour), 0, 255).astype(int).tolist())
