"""The tokenizer against transformers' `Wav2Vec2CTCTokenizer`: ids, text, offsets and files in both directions."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2CTCTokenizer

from wavlm_live.model.errors import CheckpointError, ConfigurationError, TextError
from wavlm_live.model.tokenizer import CTCTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCAB = {t: i for i, t in enumerate(["<pad>", "|", "'", *LETTERS])}


def oracle(vocab: dict[str, Any], **options: Any) -> Wav2Vec2CTCTokenizer:
    """transformers' tokenizer of a vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.json")
        path.write_text(json.dumps(vocab), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(str(path), **options)


@st.composite
def vocabularies(draw: st.DrawFn) -> dict[str, int]:
    """Tokens of one or two characters in any order, with the blank anywhere, often with an unknown token."""
    letters = draw(st.sets(st.sampled_from("abcdeéßЖ가'-."), min_size=2))
    pairs = draw(st.sets(st.text("abcde", min_size=2, max_size=2), max_size=3))
    extra = draw(st.sets(st.sampled_from(["<unk>", "<s>", "</s>"])))
    tokens = draw(st.permutations(sorted({"<pad>", "|", "<unk>", *letters, *pairs, *extra})))
    return {t: i for i, t in enumerate(tokens)}


def same_offsets(ours: list[Any], theirs: list[dict[str, Any]], key: str) -> None:
    assert [tuple(o) for o in ours] == [(o[key], o["start_offset"], o["end_offset"]) for o in theirs]


@settings(max_examples=60, deadline=None)
@given(vocab=vocabularies(), data=st.data())
def test_ids_to_text_and_offsets_as_transformers(vocab: dict[str, int], data: st.DataObject) -> None:
    ours, theirs = CTCTokenizer(vocab), oracle(vocab)
    ids = data.draw(
        st.lists(st.integers(0, len(vocab) - 1) | st.just(vocab["|"]) | st.just(vocab["<pad>"]), max_size=40)
    )
    group = data.draw(st.booleans())
    expected: Any = theirs.decode(ids, output_char_offsets=True, output_word_offsets=True, group_tokens=group)
    found = ours.decode_with_offsets(ids, group_tokens=group)
    assert found.text == expected.text == ours.decode(ids, group_tokens=group)
    same_offsets(found.chars, expected.char_offsets, "char")
    same_offsets(found.words, expected.word_offsets, "word")


@settings(max_examples=60, deadline=None)
@given(vocab=vocabularies(), text=st.text("abcdeé가zZ '", max_size=20))
def test_text_to_ids_as_transformers(vocab: dict[str, int], text: str) -> None:
    assert CTCTokenizer(vocab).encode(text) == oracle(vocab)(text).input_ids


@settings(max_examples=20, deadline=None)
@given(text=st.text("abcé ", max_size=20))
def test_upper_case_vocabulary(text: str) -> None:
    vocab = {"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "B": 4, "C": 5}
    ours, theirs = CTCTokenizer(vocab, do_lower_case=True), oracle(vocab, do_lower_case=True)
    ids = ours.encode(text)
    assert ids == theirs(text).input_ids
    assert ours.decode(ids) == theirs.decode(ids)
    assert "".join(w.text for w in ours.decode_with_offsets(ids).words).islower() or not set(text) & set("abc")


def test_words_span_their_characters() -> None:
    """The frames are counted by hand here: blanks and delimiters belong to no word."""
    tok = CTCTokenizer(VOCAB)
    h, i, t, o, bar, pad = (VOCAB[c] for c in ["h", "i", "t", "o", "|", "<pad>"])
    ids = [pad, h, h, pad, i, bar, bar, pad, t, pad, o, o, pad, o, pad]
    found = tok.decode_with_offsets(torch.tensor(ids))
    assert found.text == "hi too"
    assert found.words == [("hi", 1, 5), ("too", 8, 14)]
    assert found.chars[2] == (" ", 5, 7)
    assert tok.batch_decode(np.array([ids, ids])) == ["hi too", "hi too"]


def test_doubled_letters_survive_the_skipping_of_special_tokens() -> None:
    vocab = {"<pad>": 0, "|": 1, "l": 2, "e": 3, "<unk>": 4, "<s>": 5}
    assert CTCTokenizer(vocab).decode([5, 3, 2, 0, 2, 4], skip_special_tokens=True) == "ell"
    assert CTCTokenizer(vocab).decode([5, 3, 2, 0, 2, 4]) == "<s>ell<unk>"


def test_unknown_characters_are_named() -> None:
    with pytest.raises(TextError, match=r"'ß', '7'.*spell the text") as caught:
        CTCTokenizer(VOCAB).encode("straße 7")
    assert "'s'" not in str(caught.value)
    with pytest.raises(TextError, match="letters are lower case"):
        CTCTokenizer(VOCAB).encode("HELLO")
    with pytest.raises(TextError, match="a space"):
        CTCTokenizer({"<pad>": 0, "a": 1}).encode("a a")
    with_unknown = CTCTokenizer({**VOCAB, "<unk>": 29})
    assert with_unknown.encode("aß") == [3, 29]
    with pytest.raises(TextError, match="'ß'"):
        with_unknown.encode("aß", unknown="error")


def test_the_blank_is_no_unknown_token() -> None:
    tok = CTCTokenizer(VOCAB, unk_token="<pad>")
    assert tok.unk_token is None
    with pytest.raises(TextError, match="'7'"):
        tok.encode("7")


def test_ids_beyond_the_vocabulary() -> None:
    with pytest.raises(TextError, match=r"id 29 .*largest id 28"):
        CTCTokenizer(VOCAB).decode([3, 29])


def test_properties() -> None:
    tok = CTCTokenizer(VOCAB)
    assert (tok.blank_id, tok.delimiter, tok.delimiter_id, tok.vocab_size, len(tok)) == (0, "|", 1, 29, 29)
    assert tok.decode([]) == ""
    assert tok.encode("") == []
    assert CTCTokenizer({"x": 7, "<pad>": 3}).vocab_size == 8


@pytest.mark.parametrize(
    ("vocab", "options", "message"),
    [
        ({"a": 0}, {}, "needs a blank"),
        ({"<pad>": 0, "a": 0}, {}, "share the id 0"),
        ({"<pad>": 0, "a": -1}, {}, "'a' has id -1"),
        ({"<pad>": 0, "a": 1.5}, {}, "'a' has id 1.5"),
        ({"<pad>": 0}, {"target_lang": "en"}, "no languages"),
        ({"en": {"<pad>": 0}, "de": {"<pad>": 0}}, {}, "languages en, de"),
    ],
)
def test_impossible_vocabularies(vocab: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CTCTokenizer(vocab, **options)


# Files ----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(vocab=vocabularies(), lower=st.booleans(), text=st.text("abcde '", max_size=20), data=st.data())
def test_files_are_read_by_both_sides(vocab: dict[str, int], lower: bool, text: str, data: st.DataObject) -> None:
    ours, theirs = CTCTokenizer(vocab, do_lower_case=lower), oracle(vocab, do_lower_case=lower)
    ids = data.draw(st.lists(st.integers(0, len(vocab) - 1), max_size=30))
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(f"{folder}/ours")
        theirs.save_pretrained(f"{folder}/theirs")
        readers = [
            Wav2Vec2CTCTokenizer.from_pretrained(f"{folder}/ours"),
            CTCTokenizer.from_pretrained(f"{folder}/ours"),
            CTCTokenizer.from_pretrained(f"{folder}/theirs"),
        ]
    for reader in readers:
        assert reader.decode(ids) == theirs.decode(ids) == ours.decode(ids)
        encoded = reader.encode(text) if isinstance(reader, CTCTokenizer) else reader(text).input_ids
        assert encoded == ours.encode(text)
    assert len(readers[0]) == len(vocab)  # no token was added behind the vocabulary


def test_bundled_vocabulary_keeps_its_size_in_transformers(tmp_path: Path) -> None:
    CTCTokenizer(VOCAB).save_pretrained(tmp_path)
    theirs = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == 29
    assert theirs.pad_token_id == 0
    assert theirs("hi there").input_ids == CTCTokenizer(VOCAB).encode("hi there")


def test_tokens_added_behind_the_vocabulary(tmp_path: Path) -> None:
    """transformers gives <s> and </s> ids behind a vocabulary without them; the model has outputs for them."""
    vocab = {"[PAD]": 3, "|": 0, "a": 1, "[UNK]": 2}
    theirs = oracle(vocab, pad_token="[PAD]", unk_token="[UNK]")
    theirs.save_pretrained(tmp_path / "new")
    # as version 4 wrote it, and as of before 2023, without `added_tokens_decoder`
    config = json.loads((tmp_path / "new/tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    old = tmp_path / "old"
    old.mkdir()
    names = {k: config.pop(k) for k in ("bos_token", "eos_token", "unk_token", "pad_token")}
    names["bos_token"] = {"content": "<s>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    (old / "tokenizer_config.json").write_text(json.dumps(config))
    (old / "special_tokens_map.json").write_text(json.dumps(names))
    (old / "vocab.json").write_text(json.dumps(vocab))
    (old / "added_tokens.json").write_text(json.dumps(theirs.get_added_vocab()))
    for folder in (tmp_path / "new", old):
        ours = CTCTokenizer.from_pretrained(folder)
        assert len(ours) == len(theirs) == ours.vocab_size == 6
        assert ours.vocab == theirs.get_vocab()
        assert (ours.blank_id, ours.unk_token) == (3, "[UNK]")
        ids = [4, 1, 1, 3, 1, 0, 5]
        assert ours.decode(ids) == theirs.decode(ids)
        ours.save_pretrained(tmp_path / "again")
        again = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "again")
        assert again.get_vocab() == theirs.get_vocab()
        assert again("a <s> a").input_ids == theirs("a <s> a").input_ids == ours.encode("a <s> a")


def test_several_languages(tmp_path: Path) -> None:
    vocab = {"en": {"<pad>": 0, "|": 1, "<unk>": 2, "a": 3}, "el": {"<pad>": 0, "|": 1, "<unk>": 2, "α": 3, "β": 4}}
    ours = CTCTokenizer(vocab, target_lang="el")
    assert (ours.languages, ours.vocab_size) == (("en", "el"), 5)
    ours.save_pretrained(tmp_path)
    theirs = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert theirs("αβ α").input_ids == ours.encode("αβ α") == [3, 4, 1, 3]
    again = CTCTokenizer.from_pretrained(tmp_path)
    assert again.target_lang == "el"
    again.set_target_lang("en")
    theirs.set_target_lang("en")
    assert again.decode([3, 3, 0, 3]) == theirs.decode([3, 3, 0, 3]) == "aa"
    with pytest.raises(ConfigurationError, match="languages en, el"):
        again.set_target_lang("fr")
    assert again.target_lang == "en"
    assert CTCTokenizer.from_pretrained(tmp_path, target_lang="en").encode("a") == [3]


def test_keys_of_the_file_survive(tmp_path: Path) -> None:
    CTCTokenizer(VOCAB, extra={"model_max_length": 77}).save_pretrained(tmp_path / "a")
    CTCTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    for name in ("vocab.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    assert json.loads((tmp_path / "b/tokenizer_config.json").read_text())["model_max_length"] == 77


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no vocab.json"),
        ({"vocab.json": "{"}, "not valid JSON"),
        ({"vocab.json": "[]"}, "holds a list"),
        ({"vocab.json": '{"a": 0}'}, "needs a blank"),
        ({"vocab.json": '{"<pad>": 0}', "tokenizer_config.json": '{"tokenizer_class": "WhisperTokenizer"}'}, "Whisper"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        CTCTokenizer.from_pretrained(tmp_path)
