import json
import unicodedata
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tinyqwenvl
from scripts.random_checkpoint import TOKEN_IDS, byte_tokenizer, random_image
from tests.test_tokenizer import REAL, needs_real
from tinyqwenvl import UserError, chat
from tinyqwenvl.media import ImageWarning
from tinyqwenvl.model import EMBEDDED, user_message
from tinyqwenvl.tokenizer import Tokenizer
from tinyqwenvl.transform import PUBLISHED_LIMITS, ImageTransform, Transform

VECTORS = json.loads((EMBEDDED.parents[2] / "tests/goldens/tokens.json").read_text("utf-8"))
IMAGE = random_image(3, 100, 150)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    byte_tokenizer().save(str(file))
    return file


def conversation():
    return [
        {"role": "user", "content": [{"type": "image", "image": IMAGE}, {"text": "Cat?"}]},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Look."}]},
    ]


# ------------------------------------------------------------------ images


def test_an_image_of_224_pixels(tmp_path):
    image = Image.fromarray(random_image(1, 224, 224))
    image.save(tmp_path / "a.png")
    for source in (image, np.asarray(image), tmp_path / "a.png", str(tmp_path / "a.png")):
        sample = {"image": source, "label": 5}
        result = ImageTransform()(sample)
        assert result["pixel_values"].shape == (256, 1176) and result["label"] == 5
        assert result["image_grid_thw"].tolist() == [[1, 16, 16]]
        assert result["pixel_values"].dtype == np.float32 and set(sample) == {"image", "label"}


def test_pixels_are_those_of_the_model_whose_pixels_are_transformers(model):
    """(The goldens hold the model's own pixels against transformers.)"""
    least, most = PUBLISHED_LIMITS
    result = ImageTransform(min_pixels=least, max_pixels=most)({"image": IMAGE})
    inputs = model.prepare(user_message(IMAGE, "?"))
    np.testing.assert_array_equal(result["pixel_values"], inputs.pixel_values)
    np.testing.assert_array_equal(result["image_grid_thw"], inputs.image_grid_thw)


def test_limits_and_other_sizes():
    large = random_image(1, 1200, 1500)
    (grid,) = ImageTransform()({"image": large})["image_grid_thw"]
    assert grid.prod() * 196 <= 1003520
    (grid,) = ImageTransform(max_pixels=PUBLISHED_LIMITS[1])({"image": large})["image_grid_thw"]
    assert grid.tolist() == [1, 86, 108]
    small = ImageTransform(patch_size=8, merge_size=1, temporal_patch_size=1, min_pixels=64)
    result = small({"image": random_image(1, 16, 24)})
    assert result["pixel_values"].shape == (6, 192)
    assert result["image_grid_thw"].tolist() == [[1, 2, 3]]


def test_rescaling_before_resizing_is_half_a_level_off():
    """What a port that resizes floats is off by: the rounding to bytes, once for each direction."""
    image = Image.fromarray(random_image(5, 211, 233))
    ours = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)) / 255
    channels = [c.convert("F").resize((224, 224), Image.Resampling.BICUBIC) for c in image.split()]
    floats = np.clip(np.stack([np.asarray(c) for c in channels], -1), 0, 255) / 255
    apart = np.abs(ours - floats) / np.array(tinyqwenvl.config.CLIP_STD)
    half_a_level = 0.5 / 255 / min(tinyqwenvl.config.CLIP_STD)
    assert half_a_level == pytest.approx(0.0075, abs=1e-4)
    assert half_a_level / 2 < np.quantile(apart, 0.99) < 2 * half_a_level


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    single, half = (ImageTransform(dtype=d)({"image": IMAGE}) for d in ("float32", "bfloat16"))
    assert half["pixel_values"].dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(
        half["pixel_values"].astype(np.float32), single["pixel_values"], rtol=2**-8
    )


# ------------------------------------------------------------------ conversations


def test_tokens_are_the_published_template(path):
    transform = Transform(path, add_eos=False)
    result = transform({"messages": conversation()})
    messages = conversation()
    pieces = chat.render(messages, add_generation_prompt=False)
    (image,) = result["encoder_input"]["vision"]["images"]
    ids = Tokenizer(byte_tokenizer()).encode(chat.expand(pieces, chat.IMAGE_PAD, [len(image) // 4]))
    assert result["tokens"] == ids.tolist()
    assert len(result["mask"]) == len(result["tokens"])
    prompt = transform({"messages": conversation()[:1]}, inference=True)["tokens"]
    pieces = chat.render(conversation()[:1])
    ids = Tokenizer(byte_tokenizer()).encode(chat.expand(pieces, chat.IMAGE_PAD, [len(image) // 4]))
    assert prompt == ids.tolist()


def test_the_mask_is_true_for_what_is_left_out_of_the_loss(path):
    transform = Transform(path)
    result = transform({"messages": conversation()})
    learnt = [t for t, out in zip(result["tokens"], result["mask"], strict=True) if not out]
    end, eos = TOKEN_IDS["<|im_end|>"], TOKEN_IDS["<|endoftext|>"]
    text = transform.decode(learnt, skip_special_tokens=False)
    assert text == "No.<|im_end|>\nLook.<|im_end|>\n<|endoftext|>"
    assert learnt.count(end) == 2 and result["tokens"][-1] == eos


def test_torchtune_messages_and_their_masks(path):
    """Objects with ``content`` items; ``masked`` is obeyed for the whole message."""
    items = [{"type": "text", "content": "Cat?"}, {"type": "image", "content": IMAGE}]
    messages = [
        SimpleNamespace(role="user", content=items, masked=True),
        SimpleNamespace(
            role="assistant", content=[{"type": "text", "content": "No."}], masked=False
        ),
    ]
    transform = Transform(path, add_eos=False)
    result = transform({"messages": messages, "id": 7})
    assert result["id"] == 7
    assert items[1]["image_grid_thw"].tolist() == [[1, 8, 10]]
    learnt = [t for t, out in zip(result["tokens"], result["mask"], strict=True) if not out]
    said = transform.decode(learnt, skip_special_tokens=False)
    assert said == "<|im_start|>assistant\nNo.<|im_end|>\n"
    plain = transform({"messages": [vars(m) for m in messages]})
    assert plain["tokens"] == result["tokens"]
    assert transform.tokenize_messages(messages) == (result["tokens"], result["mask"])
    joined = transform.tokenize_message(messages[0]) + transform.tokenize_message(messages[1])
    assert result["tokens"][-len(joined) :] == joined


@given(st.integers(1, 200))
def test_a_cut_image_is_dropped_whole(path, most):
    two = [
        {"role": "user", "content": [{"image": IMAGE}, {"text": "and"}, {"image": IMAGE}]},
        {"role": "assistant", "content": "Same."},
    ]
    whole = Transform(path)({"messages": two})["tokens"]
    transform = Transform(path, max_seq_len=most)
    if most < len(whole):
        with pytest.warns(ImageWarning, match="truncated from"):
            result = transform({"messages": two})
    else:
        result = transform({"messages": two})
    tokens, images = result["tokens"], result["encoder_input"]["vision"]["images"]
    assert len(tokens) == len(result["mask"]) <= most
    assert tokens[:-1] == whole[: len(tokens) - 1] and tokens[-1] == transform.eos_id
    count = tokens.count(TOKEN_IDS["<|image_pad|>"])
    assert count == sum(len(image) // 4 for image in images)
    for name in ("<|vision_start|>", "<|vision_end|>"):
        assert tokens.count(TOKEN_IDS[name]) == len(images)


def test_prompt_templates(path):
    around = Transform(path, prompt_template={"user": ("Question: ", " Answer:")}, add_eos=False)
    text = around.decode(around({"messages": [{"role": "user", "content": "x"}]})["tokens"], False)
    assert "<|im_start|>user\nQuestion: x Answer:<|im_end|>" in text
    system = [{"role": "system", "content": "s"}]
    changed = Transform(path, prompt_template=lambda messages: system + messages, add_eos=False)
    text = changed.decode(
        changed({"messages": [{"role": "user", "content": "x"}]})["tokens"], False
    )
    assert text.startswith("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n")


def test_images_are_those_of_the_messages_as_the_template_left_them(path):
    two = [
        {"role": "user", "content": [{"image": IMAGE}, {"text": "a"}]},
        {"role": "user", "content": [{"image": IMAGE[:60, :60]}, {"text": "b"}]},
    ]
    pads = TOKEN_IDS["<|image_pad|>"]
    for template in (lambda m: m[1:], lambda m: m[::-1], lambda m: [*m, *m[:1]]):
        result = Transform(path, prompt_template=template)({"messages": two})
        images = result["encoder_input"]["vision"]["images"]
        assert result["tokens"].count(pads) == sum(len(image) // 4 for image in images)
        starts = [i for i, t in enumerate(result["tokens"]) if t == TOKEN_IDS["<|vision_start|>"]]
        for start, image in zip(starts, images, strict=True):
            assert result["tokens"][start + 1 :][: len(image) // 4] == [pads] * (len(image) // 4)
            assert result["tokens"][start + 1 + len(image) // 4] == TOKEN_IDS["<|vision_end|>"]


def test_the_end_of_text_is_masked_like_the_token_before_it(path):
    said = Transform(path)({"messages": [{"role": "assistant", "content": "x", "masked": False}]})
    asked = Transform(path)({"messages": conversation()[:1]})
    assert (said["mask"][-1], asked["mask"][-1]) == (False, True)
    short = Transform(path, learn_newline=False)({"messages": conversation()})
    assert short["mask"][-2:] == [True, True]  # the newline, and the end of text with it
    open_end = Transform(path)({"messages": conversation()[:1]}, inference=True)
    assert open_end["tokens"][-1] != TOKEN_IDS["<|endoftext|>"]


def test_text_around_is_left_out_of_the_loss(path):
    around = Transform(path, prompt_template={"assistant": ("Well: ", "!")}, add_eos=False)
    result = around({"messages": conversation()[:2]})
    learnt = [t for t, out in zip(result["tokens"], result["mask"], strict=True) if not out]
    assert around.decode(learnt, skip_special_tokens=False) == "No.<|im_end|>\n"


@pytest.mark.parametrize("name", ["image", "content", "image_url", "path", "url"])
def test_spellings_of_an_image(path, name, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    here, data = str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()
    for value in (here, {"url": here}, {"bytes": data, "path": None}, {"path": here}, data):
        item = {"type": "image", name: value}
        result = Transform(path)({"messages": [{"role": "user", "content": [item]}]})
        assert len(result["encoder_input"]["vision"]["images"]) == 1


@dataclass
class Part:
    type: str
    text: str | None = None
    image: Any = None


@dataclass
class Said:
    role: str
    content: list


def test_items_may_be_objects(path):
    parts = [{"type": "image", "image": IMAGE}, {"type": "text", "text": "Is it?"}]
    as_dicts = Transform(path)({"messages": [{"role": "user", "content": parts}]})
    said = Said("user", [Part("image", image=IMAGE), Part("text", "Is it?")])
    found = Transform(path)({"messages": [said]})
    assert found["tokens"] == as_dicts["tokens"] and said.content[0].image is IMAGE
    url = {"type": "image_url", "image_url": {"url": IMAGE}}
    found = Transform(path)({"messages": [{"role": "user", "content": [url, parts[1]]}]})
    assert found["tokens"] == as_dicts["tokens"]


@pytest.mark.parametrize(
    ("keys", "grid"),
    [
        ({"max_pixels": 4 * 784}, [1, 4, 4]),
        ({"min_pixels": 16 * 784}, [1, 8, 8]),
        ({"resized_height": 28, "resized_width": 84}, [1, 4, 8]),
        ({"max_pixels": None}, [1, 4, 4]),
    ],
)
def test_an_image_item_has_limits_of_its_own(path, keys, grid, model):
    """As the model reads them; 4 merge groups are the least of an item's resized sides."""
    message = {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (56, 56))}]}
    message["content"][0].update(keys)
    assert model.prepare([message]).image_grid_thw.tolist() == [grid]
    found = Transform(path)({"messages": [message]})["encoder_input"]["vision"]
    assert found["image_grid_thw"].tolist() == [grid]


def test_text_that_joins_across_items(tmp_path):
    """An "e" and an accent in neighbouring items are one character, as in the rendered prompt."""
    file = tmp_path / "tokenizer.json"
    byte_tokenizer().save(str(file))
    items = [{"text": "e"}, {"text": "\u0301"}]
    transform = Transform(file, add_eos=False)
    message = {"role": "user", "content": items}
    pieces = chat.render([{"role": "system", "content": ""}, message], False)[5:]
    assert transform.tokenize_message(message) == transform.tokenizer.encode(pieces).tolist()


# ------------------------------------------------------------------ text


@given(st.text())
def test_text_comes_back(path, text):
    transform = Transform(path)
    normal = unicodedata.normalize("NFC", text)
    assert transform.decode(transform.encode(normal)) == normal
    assert transform.encode(normal, add_eos=True) == [*transform.encode(normal), transform.eos_id]


@pytest.mark.parametrize("text", VECTORS["embedded"])
def test_stored_vectors_of_the_small_tokenizer(text):
    transform = Transform(EMBEDDED / "tokenizer.json")
    assert transform.encode(text) == VECTORS["embedded"][text]


@needs_real
@pytest.mark.parametrize("files", [["tokenizer.json"], ["vocab.json", "merges.txt"]])
def test_the_real_tokenizer(files):
    transform = Transform(*[REAL / name for name in files])
    sizes = transform.vocab_size, transform.base_vocab_size, len(transform.special_tokens)
    assert sizes == (151_665, 151_643, 22)
    assert len(transform.encode("Hello, how are you?")) == 6
    assert len(transform.encode("Hello, how are you?", add_eos=True)) == 7
    assert len(transform.encode("What do you see in this image?")) == 8
    for text, ids in VECTORS["real"].items():
        assert transform.encode(text) == ids


def test_a_file_of_added_tokens(tmp_path):
    backend = json.loads(byte_tokenizer().to_str())
    (tmp_path / "vocab.json").write_text(json.dumps(backend["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<mine>"]
    for value in (names, {n: 256 + i for i, n in enumerate(names)}):
        (tmp_path / "added.json").write_text(json.dumps(value))
        transform = Transform(
            tmp_path / "vocab.json", tmp_path / "merges.txt", tmp_path / "added.json"
        )
        assert transform.special_tokens == {n: 256 + i for i, n in enumerate(names)}
        assert transform.base_vocab_size == 256


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (
            {"additional_special_tokens": ["<|im_end|>"]},
            "neither a list of tokens",
        ),  # special_tokens_map
        ([1, 2], "neither a list of tokens"),
        (7, "neither a list of tokens"),
        ({"<|endoftext|>": 256, "<|im_end|>": 999}, "should have the id 999"),
    ],
)
def test_files_of_added_tokens_that_do_not_fit(value, complaint, tmp_path):
    backend = json.loads(byte_tokenizer().to_str())
    (tmp_path / "vocab.json").write_text(json.dumps(backend["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "added.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=complaint):
        Transform(tmp_path / "vocab.json", tmp_path / "merges.txt", tmp_path / "added.json")


# ------------------------------------------------------------------ bad input


def test_bad_samples_are_one_line(path, tmp_path):
    transform = Transform(path)
    for call, complaint in (
        (lambda: ImageTransform(dtype="float16"), "float32 or bfloat16"),
        (lambda: ImageTransform(patch_size=0), "patch_size is 0"),
        (lambda: ImageTransform()({"picture": 1}), 'a dict with "image"'),
        (lambda: ImageTransform()({"image": tmp_path / "nowhere.png"}), "no such image"),
        (lambda: ImageTransform(min_pixels=10, max_pixels=5)({"image": IMAGE}), "allow no size"),
        (lambda: ImageTransform(image_mean=(0.5,)), r"image_mean is \(0.5,\)"),
        (lambda: ImageTransform(image_std=(0, 0, 1)), "none zero"),
        (lambda: ImageTransform()({"image": IMAGE, "max_pixels": "9"}), "a limit of '9' pixels"),
        (lambda: Transform(None), "path is None"),
        (lambda: Transform(path, max_seq_len=0), "max_seq_len is 0"),
        (lambda: Transform(path, prompt_template="x"), "prompt_template must be a function"),
        (
            lambda: Transform(path, prompt_template={"user": "Q: "}),
            "prompt_template must be a function",
        ),
        (
            lambda: Transform(path, prompt_template=print)({"messages": conversation()}),
            "return a list",
        ),
        (lambda: Transform(tmp_path / "nowhere.json"), "cannot read the tokenizer"),
        (lambda: Transform(path, special_tokens_path=path), "needs its merges"),
        (lambda: transform({"tokens": []}), '"messages": a list'),
        (lambda: transform({"messages": [{"role": "user"}]}), "no content"),
        (lambda: transform({"messages": [{"content": "x"}]}), "no role"),
        (lambda: transform({"messages": [{"role": "user", "content": 5}]}), "a text or a list"),
        (
            lambda: transform({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}),
            "audio",
        ),
        (
            lambda: transform({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            "neither",
        ),
        (lambda: transform.tokenize_message(conversation()[0]), "no image_grid_thw"),
    ):
        with pytest.raises(UserError, match=complaint) as caught:
            call()
        assert "\n" not in str(caught.value)
