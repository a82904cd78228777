"""Figures of the oracle against the comparison that they show."""

from dataclasses import replace

import numpy as np
import pytest

import tinyqwenvl
from tinyqwenvl.model import EXAMPLE_IMAGE, user_message
from tinyqwenvl.oracle.diff import compare
from tinyqwenvl.oracle.metrics import distance
from tinyqwenvl.oracle.mutants import apply
from tinyqwenvl.oracle.record import Job, record
from tinyqwenvl.viz import distance_profile, error_map
from tinyqwenvl.viz.oracle import part_of_run


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """A reference with floors, one port whose numbers are wrong, one whose positions are."""
    folder = tmp_path_factory.mktemp("dumps")
    model = tinyqwenvl.load()
    job = Job(user_message(EXAMPLE_IMAGE, "describe"))
    found = [record(model, job, folder / "right.safetensors", floors=["float32"])]
    for name in ("merger_quick_gelu", "image_height_and_width_swapped"):
        with apply(name):
            found.append(record(model, job, folder / f"{name}.safetensors", floors=[]))
    return found


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def test_every_floating_point_stage_has_a_mark_of_its_kind_at_its_distance(dumps):
    found = compare(dumps[0], dumps[1])
    axes = distance_profile(found).axes[0]
    lines = lines_of(axes)
    wrong = [(i, v) for i, v in enumerate(found.compared) if v.bad]
    right = [v for v in found.compared if v.distance is not None and not v.bad]
    assert lines["differs"].get_xdata().tolist() == [i for i, _ in wrong]
    assert lines["differs"].get_ydata().tolist() == [v.distance.nmse for _, v in wrong]
    assert len(lines["agrees"].get_xdata()) == len(right) > 0
    assert np.all(lines["agrees"].get_ydata() == axes.get_ylim()[0])  # equal: on the lowest line


def test_the_first_that_differs_is_marked_and_named(dumps):
    found = compare(dumps[0], dumps[1])
    figure = distance_profile(found)
    axes = figure.axes[0]
    place = found.compared.index(found.first)
    assert [t.get_text() for t in axes.texts if "first" in t.get_text()] == [
        "first: visual.merger.mlp.2"
    ]
    assert any(np.all(np.equal(line.get_xdata(), place)) for line in axes.lines[-1:])
    wrong = sum(v.bad for v in found.compared)
    assert f"{wrong} of them" in figure.alt and "visual.merger.mlp.2" in figure.alt


@pytest.mark.parametrize("measure", ["nmse", "cosine_error", "max_error"])
@pytest.mark.parametrize("scope", ["entire", "single"])
def test_the_dotted_line_is_the_recorded_floor(dumps, measure, scope):
    found = compare(dumps[0], dumps[1])
    axes = distance_profile(found, measure, scope).axes[0]
    line = lines_of(axes)["rounding alone"]
    for place, floor in zip(*line.get_data(), strict=True):
        entry = dumps[0].get(found.compared[place].name)
        known = entry.info["floor"].get("float32", {}).get(scope, {}).get(measure, 0)
        assert (floor == known) if known else np.isnan(floor)


def test_the_grey_area_ends_at_the_band(dumps):
    found = compare(dumps[0], dumps[1])
    (area,) = distance_profile(found, "max_error").axes[0].collections
    corners = area.get_paths()[0].vertices
    for i, v in enumerate(found.compared):
        if v.band is not None:
            assert np.max(corners[corners[:, 0] == i, 1]) == v.band[2]


def test_integers_that_differ_are_crosses(dumps):
    found = compare(dumps[0], dumps[2])
    figure = distance_profile(found)
    crosses = lines_of(figure.axes[0])["integers or shapes differ"]
    assert [found.compared[i].name for i in crosses.get_xdata()] == ["model.position_ids"]
    assert "first: model.position_ids" in figure.alt
    assert "1 stage differs in integers or shape" in figure.alt


def test_pearson_stands_below(dumps):
    found = compare(dumps[0], dumps[1])
    figure = distance_profile(found, pearson=True)
    below = figure.axes[1].lines[0].get_ydata()
    told = [v.distance.pearson for v in found.compared if v.distance is not None]
    assert np.array_equal(below, told)
    assert len(distance_profile(found).axes) == 1


def test_nothing_wrong_and_nothing_known(dumps):
    """A dump against itself, without floors, and a few stages of it."""
    few = {k: replace(e, info={}) for k, e in dumps[0].entries.items() if k[0].startswith("visual")}
    bare = replace(dumps[0], entries=few)
    found = compare(bare, bare)
    figure = distance_profile(found)
    assert figure.alt.endswith("all within tolerance.")
    assert "rounding alone" not in lines_of(figure.axes[0])
    assert not [t for t in figure.axes[0].texts if "first" in t.get_text()]


def test_a_measure_that_is_not_known(dumps):
    with pytest.raises(ValueError, match="no measure is called pearson"):
        distance_profile(compare(dumps[0], dumps[1]), "pearson")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("image.rgb", "pixels"),
        ("image.resize", "pixels"),
        ("image_grid_thw", "pixels"),
        ("input_ids", "prompt"),
        ("visual.patch_embed", "patches"),
        ("visual.blocks.31.attn.qkv", "block 31"),
        ("visual.blocks.3", "block 3"),
        ("visual.merger.mlp.0", "merger"),
        ("visual", "merger"),
        ("model.inputs_embeds", "tokens"),
        ("model.layers.0.self_attn.q#2", "layer 0"),
        ("lm_head", "logits"),
        ("something.else", "something.else"),
    ],
)
def test_parts_of_a_run(name, part):
    assert part_of_run(name) == part


def numbers_in(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("grid", [(1, 4, 6), (1, 2, 2), (2, 4, 2)])
def test_error_map_has_each_token_in_its_place(grid):
    t, rows, columns = grid[0], grid[1] // 2, grid[2] // 2
    rng = np.random.default_rng(0)
    right = rng.normal(size=(t * rows * columns, 8)).astype(np.float32)
    wrong = right.copy()
    wrong[-1] *= -1  # the opposite direction: 1 - cosine is 2
    figure = error_map(wrong, right, grid)
    panels = [axes for axes in figure.axes if axes.images][:t]
    shown = np.stack([axes.images[0].get_array() for axes in panels])
    assert shown.shape == (t, rows, columns)
    assert np.isclose(shown.flat[-1], 2)
    assert [n for axes in panels for n in numbers_in(axes)] == ["="] * (len(right) - 1) + ["2"]
    assert f"{len(right) - 1} are equal" in figure.alt
    assert f"in row {rows - 1} and column {columns - 1}" in figure.alt


def test_error_map_writes_powers_where_errors_differ_much():
    rng = np.random.default_rng(1)
    right = rng.normal(size=(4, 64))
    wrong = right + np.array([0, 1e-1, 1e-3, 1e-5])[:, None] * rng.normal(size=(4, 64))
    axes = error_map(wrong, right, (1, 4, 4)).axes[0]
    errors = [distance(a[None], b[None]).cosine_error for a, b in zip(wrong, right, strict=True)]
    assert numbers_in(axes) == ["="] + [f"{np.floor(np.log10(e)):.0f}" for e in errors[1:]]


def test_error_map_of_equal_arrays_beside_an_image():
    x = np.ones((6, 4), np.float32)
    figure = error_map(x, x, (1, 4, 6), image=np.zeros((56, 84, 3), np.uint8))
    assert figure.axes[0].images[0].get_array().shape == (56, 84, 3)
    assert numbers_in(figure.axes[1]) == ["="] * 6
    assert "6 are equal" in figure.alt
