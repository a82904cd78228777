"""Padded and packed samples: transformers' positions, and each sample as it is alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_same_but_for_rounding, max_examples

from scripts.batch_cases import BATCHES
from scripts.batch_cases import sample as sample_of
from scripts.random_checkpoint import TOKEN_IDS, byte_tokenizer, random_image, tiny_config
from tinyqwenvl import UserError, decoder, nn
from tinyqwenvl.batching import IGNORED, inputs_of, pack, pad
from tinyqwenvl.config import parse_config
from tinyqwenvl.model import Inputs, user_message
from tinyqwenvl.position import mrope_cos_sin
from tinyqwenvl.transform import Transform

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "batches.json").read_text("utf-8"))
CASES = [name for name in GOLDENS if name != "about"]
PAD = TOKEN_IDS["<|endoftext|>"]


@pytest.fixture(scope="module")
def transform(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    byte_tokenizer().save(str(file))
    return Transform(file)


@pytest.fixture(scope="module")
def samples(transform):
    """Of different lengths; two images, none, one."""
    images = [random_image(i, 60 + 20 * i, 90) for i in range(3)]
    asked = [
        [{"image": images[0]}, {"text": "and"}, {"image": images[1]}, {"text": "?"}],
        [{"text": "hi"}],
        [{"text": "What is this? "}, {"image": images[2]}],
    ]
    return [
        transform(
            {
                "messages": [
                    {"role": "user", "content": content},
                    {"role": "assistant", "content": "Yes, a cat." * (i + 1)},
                ]
            }
        )
        for i, content in enumerate(asked)
    ]


# ------------------------------------------------------------------ padding


@pytest.mark.parametrize("name", CASES)
def test_positions_and_deltas_are_those_of_get_rope_index(name):
    """(The goldens were made by transformers, with its attention mask.)"""
    family, batch, side = name.split(": ")
    config, case = parse_config(tiny_config(family)), GOLDENS[name]
    prompts = []
    for parts in BATCHES[batch]:
        made = sample_of(parts)
        grids = {
            key: np.array(made[part]) if made[part] else None
            for key, part in (("image_grid_thw", "images"), ("video_grid_thw", "videos"))
        }
        fields = {
            pixels: None if grid is None else np.zeros((int(np.prod(grid, axis=1).sum()), 4), "f4")
            for pixels, grid in zip(
                ("pixel_values", "pixel_values_videos"), grids.values(), strict=True
            )
        }
        ids, seconds = np.array(made["ids"]), tuple(made["seconds"])
        nowhere = np.zeros((3, len(ids)), int)  # positions are computed anew
        prompts.append(Inputs(ids, nowhere, 0, **fields, **grids, second_per_grid_ts=seconds))
    padded = pad(prompts, config, 0, side)
    np.testing.assert_array_equal(padded.input_ids, case["input_ids"])
    np.testing.assert_array_equal(padded.attention_mask, case["attention_mask"])
    np.testing.assert_array_equal(np.moveaxis(padded.position_ids, 1, 0), case["position_ids"])
    np.testing.assert_array_equal(padded.rope_deltas, case["rope_deltas"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(model, samples, side):
    batch = pad(samples, model.config, PAD, side, multiple_of=16)
    lengths = [len(sample["tokens"]) for sample in samples]
    assert batch.input_ids.shape == batch.labels.shape == batch.attention_mask.shape
    assert batch.input_ids.shape[1] == -(-max(lengths) // 16) * 16
    assert batch.attention_mask.sum(axis=1).tolist() == lengths
    for i, sample in enumerate(samples):
        real = batch.attention_mask[i].astype(bool)
        assert real[-1 if side == "left" else 0] and real.sum() == lengths[i]
        assert batch.input_ids[i][real].tolist() == sample["tokens"]
        assert np.all(batch.input_ids[i][~real] == PAD) and np.all(batch.labels[i][~real] == -100)
        learnt = [t if not out else IGNORED for t, out in
                  zip(sample["tokens"], sample["mask"], strict=True)]  # fmt: skip
        assert batch.labels[i][real].tolist() == learnt
        assert np.any(batch.labels[i] != IGNORED)
        np.testing.assert_array_equal(batch.position_ids[i][:, real], batch.samples[i].position_ids)
        assert np.all(batch.position_ids[i][:, ~real] == 0)
    assert len(batch.media.image_grid_thw) == 3
    assert len(batch.media.pixel_values) == np.prod(batch.media.image_grid_thw, axis=1).sum()


def test_the_attention_mask_of_a_padded_batch(model, samples):
    batch = pad(samples, model.config, PAD, "left")
    mask = batch.causal_mask()
    for i in range(len(samples)):
        real = np.flatnonzero(batch.attention_mask[i])
        assert not mask[i][:, batch.attention_mask[i] == 0].any()
        np.testing.assert_array_equal(
            mask[i][np.ix_(real, real)], np.tril(np.ones((len(real),) * 2, bool))
        )


def test_a_fixed_length(model, samples):
    longest = max(len(sample["tokens"]) for sample in samples)
    assert pad(samples, model.config, PAD, max_length=longest + 7).input_ids.shape[1] == longest + 7
    with pytest.raises(UserError, match=rf"a sample has {longest} tokens, more than max_length 20"):
        pad(samples, model.config, PAD, max_length=20)


# ------------------------------------------------------------------ packing


def test_packing(model, samples):
    packed = pack(samples, model.config)
    assert packed.input_ids.tolist() == [t for sample in samples for t in sample["tokens"]]
    assert np.diff(packed.cu_seqlens).tolist() == [len(sample["tokens"]) for sample in samples]
    for i, (start, end) in enumerate(zip(packed.cu_seqlens, packed.cu_seqlens[1:], strict=False)):
        assert np.all(packed.segment_ids[start:end] == i)
        alone = inputs_of(samples[i], model.config)
        np.testing.assert_array_equal(packed.position_ids[:, start:end], alone.position_ids)
        assert packed.position_ids[0, start] == 0 and packed.labels[start] == IGNORED
    same = packed.segment_ids[:, None] == packed.segment_ids
    np.testing.assert_array_equal(packed.causal_mask(), np.tril(same))


def test_a_first_token_is_never_a_label(model, transform):
    """Where a message is trained whole, as in TorchTune, the sample before would predict it."""
    message = {"role": "assistant", "content": "x", "masked": False}
    sample = Transform(transform.path, packaging="torchtune")({"messages": [message]})
    assert sample["mask"][0] is False
    assert pack([sample, sample], model.config).labels[[0, len(sample["tokens"])]].tolist() == [
        IGNORED,
        IGNORED,
    ]


def test_packed_samples_have_the_logits_they_have_alone(model, exact_model, samples):
    """With positions that begin afresh and the block-diagonal mask, in the decoder's own layers."""
    packed = pack(samples, model.config)
    found = []
    for each in (model, exact_model):
        parts = [replace(s, pixel_values=_as(s.pixel_values, each)) for s in packed.samples]
        x = np.concatenate([each.embed(part) for part in parts])
        text = each.config.text
        cos, sin = mrope_cos_sin(packed.position_ids, text, each.dtype)
        for i in range(text.num_hidden_layers):
            layer = each.weights.model.layers[i]
            x = decoder.decoder_layer(x, layer, text, cos, sin, packed.key_ranges, None, i)
        x = nn.rms_norm(x, each.weights.model.norm, text.rms_norm_eps)
        alone = np.concatenate([each.forward(part) for part in parts])
        found.append((decoder.logits(x, each.weights.lm_head), alone))
    (together, alone), (_, exact) = found
    assert_same_but_for_rounding(together, alone, exact)


def _as(pixels, model):
    return None if pixels is None else pixels.astype(model.dtype)


def test_the_model_runs_a_sample_of_a_batch(model, samples):
    inputs = inputs_of(samples[0], model.config)
    prompt = model.prepare(user_message(random_image(9, 60, 90), "hi"))
    again = pad([prompt, samples[1]], model.config, PAD)
    assert model.forward(inputs).shape == (len(samples[0]["tokens"]), 300)
    assert list(model.generate(again.samples[0], 2)) == list(model.generate(prompt, 2))
    assert np.all(again.labels[0] == IGNORED)
    for name in ("input_ids", "position_ids", "pixel_values", "image_grid_thw", "rope_delta"):
        np.testing.assert_array_equal(getattr(again.samples[0], name), getattr(prompt, name))


@max_examples(30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.sampled_from(["left", "right"]))
def test_any_lengths(lengths, side):
    config = parse_config(tiny_config("qwen2_5_vl"))
    plain = [{"tokens": [5] * n, "mask": [False] * n} for n in lengths]
    batch, packed = pad(plain, config, PAD, side), pack(plain, config)
    assert batch.attention_mask.sum() == sum(lengths) == len(packed.input_ids)
    assert np.all(batch.rope_deltas == 0) and np.all(packed.rope_deltas == 0)
    for row, n in zip(batch.position_ids, lengths, strict=True):
        cut = slice(-n, None) if side == "left" else slice(n)
        np.testing.assert_array_equal(row[:, cut], np.tile(np.arange(n), (3, 1)))
    assert len(packed.cu_seqlens) == len(lengths) + 1


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: {}, "a dict with tokens and mask"),
        (lambda s: 5, "a dict with tokens and mask"),
        (lambda s: {**s, "tokens": []}, "no tokens"),
        (lambda s: {**s, "tokens": [10**6] * len(s["tokens"])}, "outside the vocabulary"),
        (lambda s: {**s, "mask": s["mask"][1:]}, "but a mask of"),
        (lambda s: {**s, "tokens": s["tokens"][:-30], "mask": s["mask"][:-30]}, "placeholders"),
        (lambda s: {**s, "encoder_input": {}}, "more image placeholders"),
        (lambda s: vision(s, image_grid_thw=None), "without image_grid_thw"),
        (lambda s: vision(s, image_grid_thw=[[1, 4]]), r"\[I, 3\]"),
        (lambda s: vision(s, images=s["encoder_input"]["vision"]["images"][:1]), "grids need"),
    ],
)
def test_samples_that_do_not_fit_are_one_line(model, samples, change, says):
    for call in (pack, lambda s, c: pad(s, c, PAD)):
        with pytest.raises(UserError, match=says) as caught:
            call([samples[1], change(samples[0])], model.config)
        assert "\n" not in str(caught.value)


def vision(sample, **changed):
    return {**sample, "encoder_input": {"vision": {**sample["encoder_input"]["vision"], **changed}}}


def test_arguments_are_checked(model, samples):
    for call, says in (
        (lambda: pad(samples, model.config, PAD, "middle"), "side is 'middle'"),
        (lambda: pad(samples, model.config, -1), "pad_id is -1"),
        (lambda: pad(samples, model.config, PAD, max_length=0), "max_length is 0"),
        (lambda: pad(samples, model.config, PAD, multiple_of=0), "multiple_of is 0"),
        (lambda: pad(samples, model.config, PAD, max_length=True), "max_length is True"),
        (lambda: pad(samples, model.config, 10**9), "pad_id is 1000000000; the vocabulary has"),
        (lambda: pack(samples, model.config, max_length="50"), "max_length is '50'"),
        (lambda: pad([], model.config, PAD), "at least one"),
        (lambda: pad(samples[0], model.config, PAD), "a list of samples"),
        (lambda: pack(samples, model.config, max_length=50), "pack fewer"),
    ):
        with pytest.raises(UserError, match=says):
            call()


# ------------------------------------------------------------------ transformers, where it is


def test_transformers_says_so_still():
    """The goldens are what the installed version says."""
    pytest.importorskip("transformers", minversion="5.23")
    pytest.importorskip("torch")
    from scripts import make_batch_goldens

    assert make_batch_goldens.everything() == {name: GOLDENS[name] for name in CASES}


@pytest.mark.parametrize("side", ["left", "right"])
def test_transformers_logits_of_a_padded_batch(checkpoint, model, exact_model, samples, side):
    """Padded together there, each alone here."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5.23")
    from scripts.witness import Witness

    batch = pad(samples, model.config, PAD, side)
    ids = torch.as_tensor(batch.input_ids)
    with torch.no_grad():
        theirs = Witness(checkpoint).model(
            input_ids=ids,
            attention_mask=torch.as_tensor(batch.attention_mask),
            pixel_values=torch.as_tensor(batch.media.pixel_values),
            image_grid_thw=torch.as_tensor(batch.media.image_grid_thw),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
        ).logits.numpy()  # fmt: skip
    for row, mask, alone in zip(theirs, batch.attention_mask, batch.samples, strict=True):
        exact = exact_model.forward(
            replace(alone, pixel_values=_as(alone.pixel_values, exact_model))
        )
        assert_same_but_for_rounding(row[mask.astype(bool)], model.forward(alone), exact)
