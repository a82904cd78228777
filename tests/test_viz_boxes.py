"""Figures of answers that point, and of what a training log says."""

import json

import numpy as np
import pytest
from support import rounding

from tinyqwenvl.grounding import Location
from tinyqwenvl.viz import (
    boxes,
    branch_attention_mask,
    branch_mask,
    component_shares,
    gallery,
    learning_curves,
    skills,
    spectrum,
)

IMAGE = np.full((56, 112, 3), 200, np.uint8)
BOX = {"bbox_2d": [10, 20, 30, 50], "label": "red circle"}
POINT = {"point_2d": [90, 14], "label": "blue star"}


def rectangles(figure):
    """Corners (x1, y1, x2, y2), without the white ground beneath each line."""
    found = [p for p in figure.axes[0].patches if p.get_edgecolor()[:3] != (1, 1, 1)]
    return [tuple(np.ravel(p.get_bbox().get_points())) for p in found]


def labels(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_boxes_and_points_are_where_the_answer_says():
    figure = boxes(IMAGE, json.dumps([BOX, POINT]))
    assert rectangles(figure) == [(10, 20, 30, 50)]
    (mark,) = figure.axes[0].lines
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (90, 14)
    assert labels(figure) == ["1 red circle", "2 blue star"]
    assert "a box for red circle from (10, 20) to (30, 50)" in figure.alt
    assert "a point for blue star at (90, 14)" in figure.alt


def test_pixels_of_the_resized_image_are_taken_back():
    """A grid of 8 x 8 patches is 112 x 112 pixels: twice as high as the image, just as wide."""
    figure = boxes(IMAGE, json.dumps([BOX, POINT]), grid=(1, 8, 8))
    assert rectangles(figure) == [(10, 10, 30, 25)]
    (mark,) = figure.axes[0].lines
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (90, 7)


def test_truth_is_dotted_and_has_no_label():
    figure = boxes(IMAGE, json.dumps(BOX), truth=[Location((12, 22, 32, 52), "red circle")])
    assert sorted(rectangles(figure)) == [(10, 20, 30, 50), (12, 22, 32, 52)]
    styles = [p.get_linestyle() for p in figure.axes[0].patches]
    assert ":" in styles or "dotted" in styles
    assert labels(figure) == ["1 red circle"] and "Dotted: the ground truth, 1 in all" in figure.alt


def test_lines_differ_in_style_as_well_as_in_colour():
    many = json.dumps([{**BOX, "label": str(i)} for i in range(4)])
    shapes = [p for p in boxes(IMAGE, many).axes[0].patches if p.get_edgecolor()[:3] != (1, 1, 1)]
    assert len({p.get_linestyle() for p in shapes}) == len({p.get_edgecolor() for p in shapes}) == 4


def test_an_answer_without_boxes_is_said_to_have_none():
    figure = boxes(IMAGE, "No.")
    assert labels(figure) == ["no box in the answer"] and "no box" in figure.alt
    assert rectangles(figure) == []


@pytest.mark.parametrize(("count", "columns"), [(1, 3), (5, 3), (4, 2)])
def test_gallery(count, columns):
    images = [np.full((10 + i, 20, 3), i, np.uint8) for i in range(count)]
    figure = gallery(images, [f"number {i}" for i in range(count)], columns)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_xlabel() for axes in shown] == [f"number {i}" for i in range(count)]
    assert [axes.images[0].get_array().shape[0] for axes in shown] == [10 + i for i in range(count)]
    many = "One image" if count == 1 else f"{count} images"
    assert figure.alt.startswith(f"Images. {many}: number 0")


# ------------------------------------------------------------------ what a log says

LOG = [
    {"pictures": 100 * (i + 1), "loss": {"count": 4 / (i + 1), **({"when": 0.0} if i > 4 else {})}}
    for i in range(12)
]


def test_a_panel_for_every_skill_from_its_first_line_on():
    figure = learning_curves(LOG, smooth=3)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels) == ["count", "when"]
    faint, strong = panels["count"].lines
    assert np.allclose(faint.get_xydata(), [[x["pictures"], x["loss"]["count"]] for x in LOG])
    raw = [x["loss"]["count"] for x in LOG]
    assert np.isclose(strong.get_ydata()[5], np.median(raw[4:7]))
    assert panels["when"].lines[0].get_xdata()[0] == 600
    assert np.all(
        panels["when"].lines[0].get_ydata() > 0
    )  # a loss of nothing is drawn all the same
    assert "1,200 images" in figure.alt and "highest count" in figure.alt


def test_logs_count_images_under_either_name():
    newer = [{"images": line["pictures"], "loss": line["loss"]} for line in LOG]
    older, figure = learning_curves(LOG), learning_curves(newer)
    for mine, theirs in zip(figure.axes, older.axes, strict=True):
        for a, b in zip(mine.lines, theirs.lines, strict=True):
            assert np.array_equal(a.get_xydata(), b.get_xydata())
    assert figure.alt == older.alt


def test_hints_have_a_panel_where_there_are_any():
    figure = learning_curves([{**line, "hint": 1.0} for line in LOG])
    assert [a.get_title() for a in figure.axes if a.get_title()][-1].startswith("hint")


def test_skills_have_a_mark_for_each_figure():
    figures = {"unseen": {"count": 0.9, "colour": 1.0}, "kept out": {"colour": 0.5}}
    figure = skills(figures)
    axes = figure.axes[0]
    locations = {line.get_label(): line for line in axes.lines if line.get_label() in figures}
    assert np.allclose(locations["unseen"].get_xydata(), [[90, 0], [100, 1]])
    assert np.allclose(locations["kept out"].get_xydata(), [[50, 1]])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["count", "colour"]
    assert len({line.get_marker() for line in locations.values()}) == 2
    assert "colour in kept out: 50%" in figure.alt


def test_a_branch_sees_the_trunk_and_itself():
    """Against the rule, pair by pair."""
    branch = np.array([0, 0, 1, 1, 2, 3, 3])
    mask = branch_mask(branch)
    for i, mine in enumerate(branch):
        for j, other in enumerate(branch):
            assert mask[i, j] == (j <= i and other in (0, mine))
    figure = branch_attention_mask(branch, list("abcdefg"))
    assert len(figure.axes[0].texts) == mask.sum()
    assert f"{mask.sum()} of 28 squares" in figure.alt and "3 branches" in figure.alt
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list("abcdefg")
    assert "0 branches" in branch_attention_mask(np.array([0])).alt


def test_shares_of_components():
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    apart = np.linalg.qr(rng.normal(size=(50, 3)))[0] * [3, 2, 1]
    assert np.allclose(component_shares(apart @ directions), np.array([9, 4, 1]) / 14)


def test_spectrum_tells_white_from_flat():
    white = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 10)))[0]
    one = np.outer(np.arange(1, 6), np.arange(3)).astype(np.float32)
    figure = spectrum({"white": white, "one": one}, largest=6)
    even, single = figure.axes[0].lines
    assert np.allclose(even.get_ydata(), [10] * 6)
    off = 100 * rounding(15, np.float32)  # percent, of the products that 15 values make
    assert np.allclose(single.get_ydata(), [100, 0, 0], rtol=0, atol=off)
    assert even.get_linestyle() != single.get_linestyle()
    assert "white: the first has 10%" in figure.alt and "one: the first has 100%" in figure.alt


def test_skills_mark_chance_and_say_where_a_cut_axis_begins():
    figure = skills({"a": {"colour": 0.97, "count": 0.88}}, chance={"colour": 0.7})
    axes = figure.axes[0]
    (stroke,) = (line for line in axes.lines if line.get_label() == "chance level")
    assert list(stroke.get_xdata()) == [70, 70] and np.mean(stroke.get_ydata()) == 0
    begins = axes.get_xlim()[0]
    assert 1 < begins < 70 and f"axis cut: begins at {begins:.0f}" in axes.get_xlabel()
    assert "cut" not in skills({"a": {"x": 0.0, "y": 1.0}}).axes[0].get_xlabel()
