"""The map of the whole model, the strip, and the cheat sheet say what the package says."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import tinyqwenvl
from scripts import cheat_sheet, refresh_figures
from tinyqwenvl import dims, presets, viz
from tinyqwenvl.checkpoint import weight_shapes
from tinyqwenvl.model import EXAMPLE_IMAGE
from tinyqwenvl.shapes import walk
from tinyqwenvl.viz import strip

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"


def texts(figure):
    return [t.get_text() for axes in figure.axes for t in axes.texts]


def inside(figure):
    """No text under 6.5 points, and none outside the figure."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        for text in axes.texts:
            box = text.get_window_extent()
            assert text.get_fontsize() >= 6.5, text.get_text()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, text.get_text()
            assert box.y0 >= 0 and box.y1 <= figure.bbox.height, text.get_text()
    return True


# ------------------------------------------------------------------ the map


@pytest.fixture(scope="module")
def recorded():
    model, image = tinyqwenvl.load(), Image.open(EXAMPLE_IMAGE).convert("RGB")
    return model, image, *refresh_figures.recorded(model, image)


def test_the_map_has_the_shapes_of_the_run(recorded):
    model, image, stages, words = recorded
    figure = viz.model_map(stages, model.config, image, words)
    shown = texts(figure)
    for name in ("pixel_values", "visual.patch_embed", "visual.merger", "model.inputs_embeds",
                 "lm_head"):  # fmt: skip
        assert str(list(stages[name][0].shape)) in shown, name
    depth, layers = model.config.vision.depth, model.config.text.num_hidden_layers
    assert {f"visual.blocks.0\u2013{depth - 1}", f"model.layers.0\u2013{layers - 1}"} <= set(shown)
    cache = list(stages[f"model.layers.{layers - 1}.self_attn.k"][0].shape)
    assert f"{layers} layers x 2 x {cache}" in shown
    delta = model.prepare(tinyqwenvl.model.user_message(image, refresh_figures.PROMPT)).rope_delta
    assert any(f"rope_delta (\u2212{-delta})" in text for text in shown)
    assert inside(figure) and f"{len(words)} times" in figure.alt


def test_the_map_of_a_model_without_windows(recorded):
    """Qwen2-VL has no window order: the map says so instead of drawing one."""
    from dataclasses import replace

    model, image, stages, words = recorded
    config = replace(model.config, model_type="qwen2_vl")
    older = {k: v for k, v in stages.items() if "window" not in k}
    figure = viz.model_map(older, config, image, words)
    shown = " ".join(" ".join(texts(figure)).split())
    assert "no windows: merge order" in shown and "Qwen2-VL:" in figure.get_suptitle()
    assert "window_index" not in shown and inside(figure)


def test_committed_figures_are_small_and_there():
    names = ("model.png", "model.svg", "cheat_sheet.pdf", "cheat_sheet-1.svg", "cheat_sheet-2.svg")
    for name in names:
        assert 20_000 < (FIGURES / name).stat().st_size < 400_000, name


# ------------------------------------------------------------------ the strip


def test_each_notebook_has_its_place_in_the_strip():
    notebooks = {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py")}
    assert notebooks == set(strip.NOTEBOOKS)
    assert set(strip.NOTEBOOKS.values()) <= {*strip.STAGES, *strip.TOPICS}
    assert all(set(lit) <= set(strip.STAGES) for lit in strip.TOPICS.values())


@pytest.mark.parametrize("name", [*strip.STAGES, *strip.TOPICS])
def test_the_strip_highlights_what_it_names(name):
    figure = viz.here(name)
    lit = [p for p in figure.axes[0].patches if p.get_linewidth() > 1]
    assert len(lit) == len(strip.TOPICS.get(name, (name,))) and inside(figure)
    assert len(figure.axes[0].patches) == len(strip.STAGES)
    assert figure.alt.startswith("You are here: ") and figure.get_figwidth() <= 7.5


def test_the_strip_knows_no_other_names():
    with pytest.raises(ValueError, match="no stage or topic nix: known are image"):
        viz.here("nix")


# ------------------------------------------------------------------ the cheat sheet


@pytest.mark.parametrize("name", presets.PRESETS)
def test_formulas_count_the_parameters_of_every_published_size(name):
    config = presets.preset(name)
    sums = {"model.layers.0.": 0, "visual.blocks.0.": 0}
    for weight, shape in weight_shapes(config).items():
        for prefix in sums:
            if weight.startswith(prefix):
                sums[prefix] += int(np.prod(shape))
    assert cheat_sheet.decoder_layer_parameters(config) == sums["model.layers.0."]
    assert cheat_sheet.vision_block_parameters(config) == sums["visual.blocks.0."]


def test_the_sheet_has_the_sizes_of_the_presets():
    head, *rows = cheat_sheet.size_rows()
    table = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    for name in presets.PRESETS:
        config, column = presets.preset(name), name.removeprefix("qwen").upper()
        assert table["decoder: hidden size D"][column] == str(config.text.hidden_size)
        assert table["layers"][column] == str(config.text.num_hidden_layers)
        cache = 2 * walk(config, [], 1).cache["token"]
        assert table["KV cache, bytes per token"][column] == f"{cache:,}"
    shown = [text for figure in cheat_sheet.pages() for text in texts(figure)]
    assert all(cell in shown for row in rows for cell in row)
    assert {*dims.GLOSSARY} <= set(shown)


def test_the_sheet_pins_its_worked_examples():
    lines = " ".join(line for _, part in cheat_sheet.formulas() for line in part)
    for said in ("-> 672 x 420", "grid (1, 30, 48), N = 1440, M = 360", "rope_delta = -336",
                 "36 KiB in bfloat16"):  # fmt: skip
        assert said in lines
    assert cheat_sheet.shape_rows()[-1][:3] == ("lm_head", "[S, V]", "[409, 151936]")


def test_letters_fit_the_shapes_of_the_sheet():
    """A letter has one size in all stages of an encoder, and of a decoder."""
    for part in ("visual", "model."):
        sizes = {}
        for name, letters, shape, _ in cheat_sheet.shape_rows():
            if name.startswith(part):
                named = re.sub(r"[\[\],]", " ", letters).split()
                for letter, size in zip(named, re.findall(r"\d+", shape), strict=True):
                    if letter in dims.GLOSSARY:
                        assert sizes.setdefault(letter, size) == size, (name, letter)


def test_functions_of_the_sheet_exist():
    for ours, *_ in [*cheat_sheet.NAMES, *((row[3],) for row in cheat_sheet.shape_rows())]:
        module, names = ours.split(" (")[0].split(".", 1)
        names = names.split(", ")
        found = getattr(tinyqwenvl, module, None) or __import__(
            f"tinyqwenvl.{module}", fromlist=["x"]
        )
        assert all(hasattr(found, n) or n == "tokenizer" for n in names), ours


def test_names_of_transformers_exist():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.24")
    root = Path(transformers.__file__).parent
    files = [*root.glob("models/qwen2*_vl/*.py"), *root.glob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    for _, theirs, _ in cheat_sheet.NAMES:
        name = theirs.rpartition(".")[2]
        assert re.search(rf"(def|class) {name}\b|\.{name}\(", source), theirs


def test_pages_are_a4_inside_their_edges_and_the_same_each_time(tmp_path):
    figures = cheat_sheet.pages()
    assert len(figures) == 2 and all(isinstance(figure, Figure) for figure in figures)
    for number, figure in enumerate(figures, 1):
        assert figure.get_size_inches().tolist() == [8.27, 11.69] and inside(figure)
        assert figure.alt.startswith(f"Page {number} of the cheat sheet")
        assert min(t.get_fontsize() for t in figure.axes[0].texts) >= 7
    first, again = tmp_path / "a.svg", tmp_path / "b.svg"
    refresh_figures.save_svg(figures[0], first, "none")
    refresh_figures.save_svg(cheat_sheet.pages()[0], again, "none")
    assert first.read_bytes().replace(b">a<", b"><") == again.read_bytes().replace(b">b<", b"><")


def test_alt_texts_in_the_readme_are_written_by_the_command(tmp_path):
    """A stale alt text is replaced, and nothing else."""
    page = tmp_path / "README.md"
    good = (ROOT / "README.md").read_text(encoding="utf-8")
    page.write_text(re.sub(r"!\[[^]]*\]\((docs/figures/model\.png)\)", r"![old](\1)", good))
    refresh_figures.readme(tmp_path, [page])
    assert page.read_text(encoding="utf-8") == good
    with pytest.raises(SystemExit):
        refresh_figures.main(["nix"])
