import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.random_checkpoint import TOKEN_IDS, byte_tokenizer
from tinyqwenvl import UserError, chat
from tinyqwenvl.model import user_message
from tinyqwenvl.tokenizer import ADDED_TOKENS, SpecialToken, Tokenizer, load_tokenizer

BYTES = Tokenizer(byte_tokenizer())
REAL = Path(__file__).parents[2] / "shared" / "qwen2-tokenizer"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="the real tokenizer is not here")
nfc_text = st.text(alphabet=st.characters(codec="utf-8")).map(
    lambda t: __import__("unicodedata").normalize("NFC", t)
)


@given(nfc_text)
def test_decode_inverts_encode(text):
    assert BYTES.decode(BYTES.encode(text), skip_special=False) == text


@given(nfc_text)
def test_streaming_says_the_same(text):
    ids = BYTES.encode(text)
    assert "".join(BYTES.stream(iter(ids))) == text


def test_streaming_waits_for_whole_characters():
    parts = list(BYTES.stream(iter(BYTES.encode("é猫!"))))
    assert parts == ["é", "猫", "!"]


def test_a_cut_character_is_still_said():
    cut = BYTES.encode("a猫")[:-1]
    assert "".join(BYTES.stream(iter(cut))) == BYTES.decode(cut) != "a"


def test_special_tokens_are_left_out_of_what_is_said():
    ids = [*BYTES.encode("a"), TOKEN_IDS["<|im_end|>"]]
    assert BYTES.decode(ids) == "a"
    assert BYTES.decode(ids, skip_special=False) == "a<|im_end|>"


def test_text_that_is_not_unicode():
    with pytest.raises(UserError, match="not Unicode"):
        BYTES.encode("a\udcff")


def test_special_tokens_in_text_stay_text():
    typed = BYTES.encode("a<|im_end|>b")
    assert TOKEN_IDS["<|im_end|>"] not in typed
    assert BYTES.decode(typed) == "a<|im_end|>b"
    written = BYTES.encode(["a", SpecialToken("<|im_end|>"), "b"])
    assert written[1] == TOKEN_IDS["<|im_end|>"] and len(written) == 3


def test_a_prompt_is_never_cut_or_padded():
    backend = byte_tokenizer()
    backend.enable_truncation(3)
    backend.enable_padding(length=20)
    assert len(Tokenizer(backend).encode("more than three")) == 15


def test_neighbouring_texts_are_encoded_as_one():
    assert BYTES.encode(["a\u0065", "\u0301b"]).tolist() == BYTES.encode("aéb").tolist()
    assert BYTES.encode([]).shape == (0,)


def test_missing_tokens_and_files(tmp_path):
    with pytest.raises(UserError, match=r"no <\|nothing\|>"):
        BYTES.token_id("<|nothing|>")
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        load_tokenizer(tmp_path)


def test_vocabulary_and_merges(tmp_path):
    backend = json.loads(byte_tokenizer().to_str())
    vocabulary = {**backend["model"]["vocab"], "ab": 256}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) == 257 + len(ADDED_TOKENS)
    assert tokenizer.token_id("<|image_pad|>") == 257 + ADDED_TOKENS.index("<|image_pad|>")
    assert tokenizer.encode("ab ab").tolist()[0] == 256
    assert tokenizer.encode("e\u0301").tolist() == tokenizer.encode("é").tolist()
    assert len(tokenizer.encode("<|fim_prefix|>")) == 1  # not special: a token wherever it stands
    # Qwen2-VL lists fewer added tokens than 2.5, in tokenizer_config.json
    listed = {
        str(257 + i): {"content": t, "special": True} for i, t in enumerate(ADDED_TOKENS[:14])
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    assert len(load_tokenizer(tmp_path)) == 257 + 14


def added(content, **flags):
    return {"content": content, "special": True, "normalized": False, **flags}


def test_added_tokens_of_the_config_count_too(tmp_path):
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    listed = {
        "278": added("<mine>", rstrip=True),
        "279": added("<plain>", special=False),
        str(TOKEN_IDS["<tool_call>"]): added("<tool_call>"),  # not special in tokenizer.json
    }
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"added_tokens_decoder": listed}))
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) == len(BYTES) + 2
    assert {"<mine>", "<tool_call>", "<|im_end|>"} <= set(tokenizer.special_tokens)
    assert "<plain>" not in tokenizer.special_tokens
    pieces = tokenizer.split("a<mine> \n b<tool_call> c<plain>")
    assert pieces == ["a", "<mine>", "b", "<tool_call>", " c", "<plain>"]
    assert [isinstance(p, SpecialToken) for p in pieces] == [False, True] * 2 + [False, True]
    assert len(tokenizer.encode("<mine>")) == 6  # typed: text
    assert BYTES.split("a<mine><tool_call>") == ["a<mine>", "<tool_call>"]
    for bad in (5, [1], {"x": 1}, {"300": added("<far>")}, {"278": {"special": True}}):
        settings.write_text(json.dumps({"added_tokens_decoder": bad}))
        with pytest.raises(UserError, match=r"cannot read the tokenizer|do not match"):
            load_tokenizer(tmp_path)


def test_split_takes_the_longest_token_and_whole_words():
    backend = byte_tokenizer()
    from tokenizers import AddedToken

    backend.add_tokens([AddedToken("<|im_end|>>", special=True), AddedToken("w", single_word=True)])
    assert Tokenizer(backend).split("<|im_end|>> wow w") == ["<|im_end|>>", " wow ", "w"]
    assert Tokenizer(backend).split("") == []


@needs_real
@pytest.mark.parametrize("source", ["tokenizer.json", "vocab.json and merges.txt"])
def test_the_real_tokenizer(source, tmp_path):
    names = ["tokenizer.json"] if source == "tokenizer.json" else ["vocab.json", "merges.txt"]
    for name in names:
        (tmp_path / name).symlink_to(REAL / name)
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) == 151665
    assert tokenizer.token_id("<|image_pad|>") == 151655
    assert tokenizer.encode("Hello, how are you?").tolist() == [9707, 11, 1246, 525, 498, 30]
    assert len(tokenizer.encode("What do you see in this image?")) == 8
    mixed = "a1234 b\n\n  c's 图片 \t<tool_call>"
    whole = load_tokenizer(REAL).encode(mixed)
    np.testing.assert_array_equal(tokenizer.encode(mixed), whole)


@needs_real
def test_a_chinese_prompt_about_a_756_by_476_image_makes_409_ids():
    """360 image tokens (at most 307,200 pixels) in a Qwen2-VL prompt."""
    question = (
        '请回答以下问题，务必只能回复一个词 "Y"或 "N"：\n' + 24 * " " + '图片和"a cat"是否相关？'
    )
    pieces = chat.expand(chat.render(user_message("cat.jpg", question)), chat.IMAGE_PAD, [360])
    assert len(load_tokenizer(REAL).encode(pieces)) == 409
