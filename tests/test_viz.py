"""What all figures share, and the source that notebooks show."""

import html
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyqwenvl import image, nn, vision, viz
from tinyqwenvl.deprecated import OLD_NAMES
from tinyqwenvl.viz import COLOURS, drawing, show_image, source
from tinyqwenvl.viz.style import shades


def test_a_figure_carries_its_alt_text_into_the_page():
    figure, _ = drawing("A title", 'two "windows" & <more>')
    page = figure._repr_html_()
    assert html.unescape(re.search('alt="([^"]*)"', page)[1]) == figure.alt
    assert figure.get_suptitle() == "A title" and figure.alt in repr(figure)


def test_a_figure_has_a_light_ground_of_its_own():
    figure, _ = drawing("A title", "nothing", size=(3, 2))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    pixels = np.asarray(Image.open(file).convert("RGBA"))
    assert pixels.shape[:2] == (200, 300) and np.all(pixels[0, 0] == 255)


def test_axes_come_as_they_are_asked_for():
    figure, axes = drawing("Six", "six axes", 2, 3)
    assert axes.shape == (2, 3) and len(figure.axes) == 6


def test_an_image_is_shown_in_its_own_pixels():
    _, axes = drawing("An image", "an image")
    show_image(axes, Image.new("RGB", (56, 28)), "small")
    assert axes.images[0].get_extent() == [0, 56, 28, 0] and axes.get_title() == "small"


def test_colours_differ_in_brightness_too():
    """Neighbours of the list are told apart without hue."""
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS])
    brightness = rgb @ (0.299, 0.587, 0.114)
    assert len(set(COLOURS)) == 8 and np.min(np.abs(np.diff(brightness[:4]))) > 15
    assert np.all(np.diff(shades([0.0, 0.5, 1.0])[:, :3] @ (0.299, 0.587, 0.114)) > 0.1)


def test_the_source_shown_is_that_of_the_file():
    shown = source(vision.merge, vision.vision_encoder)  # the first is wrapped as a stage
    with open(vision.__file__, encoding="utf-8") as file:
        text = file.read()
    assert shown.file == "tinyqwenvl/vision.py"
    merge, vision_encoder = shown.text.split("\n\n\ndef vision_encoder")
    assert merge in text and "@stage\ndef merge(" in merge
    assert "def vision_encoder" + vision_encoder in text and vision_encoder.endswith("index=index)")
    assert "```python\n" in shown._repr_markdown_() and shown.text in repr(shown)


def test_the_source_of_a_class_or_a_method_is_shown_too():
    assert source(nn.ReferenceCache).text.startswith("class ReferenceCache:")
    assert source(nn.KVCache.append).text.startswith("def append(")


def test_sources_of_two_files_are_refused():
    with pytest.raises(ValueError, match="one file at a time"):
        source(image.patchify, vision.merge)


def test_without_matplotlib_one_line_says_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None; import tinyqwenvl.viz"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'tinyqwenvl[notebooks]'" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize("old", OLD_NAMES["tinyqwenvl.viz"])
def test_names_of_courses_still_work_and_say_the_new_one(old):
    new = OLD_NAMES["tinyqwenvl.viz"][old]
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}"):
        assert getattr(viz, old) is getattr(viz, new)
    assert new in viz.__all__ and old not in viz.__all__


def test_every_exported_figure_is_listed_under_its_file():
    """The table at the top of the package names each file of figures, and nothing else."""
    files = {path.stem for path in Path(viz.__file__).parent.glob("*.py")} - {"__init__"}
    listed = set(re.findall(r"^``(\w+)``", viz.__doc__, re.MULTILINE))
    assert listed == files - {"style", "words", "source", "icons"}
    drawn = {getattr(viz, name).__module__.rpartition(".")[2] for name in viz.__all__
             if callable(getattr(viz, name))}  # fmt: skip
    assert listed <= drawn
