"""`CTCTokenizer`: text to tokens of a CTC head, frames of tokens back to text with times.

The files and the reading of them are those of transformers' `Wav2Vec2CTCTokenizer`: `vocab.json`,
`tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Literal, NamedTuple

from .errors import CheckpointError, ConfigurationError, TextError
from .folders import Source, read_json, staged, write_json

CLASSES = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer")
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


class Offset(NamedTuple):
    """A character or a word and the frames `[start_frames, end_frames)` it was read from."""

    text: str
    start_frames: int
    end_frames: int


class DecodedText(NamedTuple):
    """Text with the offsets of its characters (word delimiters among them) and of its words."""

    text: str
    chars: list[Offset]
    words: list[Offset]


class CTCTokenizer:
    """The vocabulary of a CTC head (Graves et al. 2006): the padding token is the blank.

    Args:
        vocab: token -> id; or, for several languages, language -> (token -> id).
        pad_token: the blank; it must be in the vocabulary.
        unk_token: stands for characters that the vocabulary lacks. Like `bos_token` and `eos_token` it is None
            afterwards if the vocabulary does not have it, or if it is the blank.
        word_delimiter_token: written for a space.
        replace_word_delimiter_char: what the delimiter is read as.
        do_lower_case: the vocabulary is upper case: text is raised before it is encoded, results are lowered.
        target_lang: the language to use of a vocabulary of several.
        added_tokens: token -> id of further outputs that `vocab` leaves out.
        extra: further keys for `tokenizer_config.json`.

    Raises:
        ConfigurationError: no padding token, an id twice, no such language.
    """

    def __init__(
        self,
        vocab: Mapping[str, Any],
        *,
        bos_token: str | None = "<s>",
        eos_token: str | None = "</s>",
        unk_token: str | None = "<unk>",
        pad_token: str = "<pad>",
        word_delimiter_token: str = "|",
        replace_word_delimiter_char: str = " ",
        do_lower_case: bool = False,
        target_lang: str | None = None,
        added_tokens: Mapping[str, int] | None = None,
        extra: Mapping[str, Any] | None = None,
    ):
        self._written: dict[str, Any] = dict(vocab)  # as in vocab.json, possibly nested
        self._added = dict(added_tokens or {})
        self._wanted = (bos_token, eos_token, unk_token)
        self.pad_token = pad_token
        self.delimiter = word_delimiter_token
        self.space = replace_word_delimiter_char
        self.do_lower_case = bool(do_lower_case)
        self.extra = dict(extra or {})
        self._use(target_lang)

    def _use(self, language: str | None) -> None:
        """Read the vocabulary of one language (None: the only one)."""
        nested = any(isinstance(v, Mapping) for v in self._written.values())
        if nested and language not in self._written:
            known = ", ".join(self._written)
            raise ConfigurationError(f"target_lang is {language!r}; this vocabulary has the languages {known}")
        if not nested and language is not None:
            raise ConfigurationError(f"target_lang is {language!r}, but this vocabulary has no languages")
        base: dict[str, int] = dict(self._written[str(language)]) if nested else dict(self._written)
        for token, index in base.items():
            if type(index) is not int or index < 0 or not token:
                raise ConfigurationError(f"vocabulary: token {token!r} has id {index!r}, expected a whole number >= 0")
        by_id: dict[int, str] = {}
        for token, index in base.items():
            if index in by_id:
                raise ConfigurationError(f"vocabulary: {by_id[index]!r} and {token!r} share the id {index}")
            by_id[index] = token
        added = {t: i for t, i in self._added.items() if t not in base and i not in by_id}
        if self.pad_token not in base and self.pad_token not in added:
            raise ConfigurationError(
                f"vocabulary: no token {self.pad_token!r}; CTC needs a blank, name it with pad_token"
            )
        self.target_lang = language
        self.languages: tuple[str, ...] = tuple(self._written) if nested else ()
        self.vocab: dict[str, int] = {**base, **added}
        """Token -> id, of the language in use, with the added tokens."""
        self._tokens = {i: t for t, i in self.vocab.items()}
        # the blank cannot stand for a character: where it is named as the unknown token, there is none
        self.bos_token, self.eos_token, self.unk_token = (
            token if token in self.vocab and token != self.pad_token else None for token in self._wanted
        )
        # Tokens of several characters are found whole, the longest first; spaces beside those of vocab.json go.
        whole = sorted((t for t in self.vocab if len(t) > 1), key=len, reverse=True)
        parts = [rf"\s*({re.escape(t)})\s*" if t in base else f"({re.escape(t)})" for t in whole]
        self._whole = re.compile("|".join(parts)) if parts else None

    def set_target_lang(self, target_lang: str) -> None:
        """Use another language of a vocabulary of several.

        Raises:
            ConfigurationError: no such language; the one in use stays.
        """
        self._use(target_lang)

    @property
    def blank_id(self) -> int:
        """Id of the blank of CTC, which is the padding token."""
        return self.vocab[self.pad_token]

    @property
    def delimiter_id(self) -> int | None:
        """Id of the word delimiter; None if the vocabulary knows no words."""
        return self.vocab.get(self.delimiter)

    @property
    def vocab_size(self) -> int:
        """Outputs that a CTC head needs: the largest id and one."""
        return max(self._tokens) + 1

    def __len__(self) -> int:
        return len(self.vocab)

    # Text to ids ----------------------------------------------------------------------------------------

    def encode(self, text: str, *, unknown: Literal["unk", "error"] = "unk") -> list[int]:
        """Ids of a text.

        Args:
            text: words between single spaces; each space becomes a word delimiter.
            unknown: what a character outside of the vocabulary becomes: "unk" the unknown token (an error where
                the vocabulary has none), "error" always an error.

        Raises:
            TextError: characters that the vocabulary cannot write; the message names them.
        """
        tokens: list[str] = []
        at = 0
        for match in self._whole.finditer(text) if self._whole else ():
            tokens += self._characters(text[at : match.start()])
            tokens.append(match.group(match.lastindex or 0))
            at = match.end()
        tokens += self._characters(text[at:])
        missing = dict.fromkeys(t for t in tokens if t not in self.vocab)
        if missing and (unknown == "error" or self.unk_token is None):
            raise TextError(self._cannot_write(text, list(missing)))
        fallback = self.vocab[self.unk_token] if self.unk_token is not None else self.blank_id
        return [self.vocab.get(t, fallback) for t in tokens]

    def _characters(self, text: str) -> list[str]:
        if self.do_lower_case:
            text = text.upper()
        return [self.delimiter if c == " " else c for c in text]

    def _cannot_write(self, text: str, missing: list[str]) -> str:
        shown = ", ".join("a space" if t == self.delimiter else repr(t) for t in missing[:12])
        message = f"the vocabulary of {len(self.vocab)} tokens lacks {shown}{', ...' if len(missing) > 12 else ''}"
        for name, change in (("lower", str.lower), ("upper", str.upper)):
            if all(change(t) in self.vocab for t in missing):
                return f"{message} (in {text[:60]!r}); its letters are {name} case: change the text's"
        return f"{message} (in {text[:60]!r}); spell the text with its tokens first"

    # Ids to text ----------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], *, group_tokens: bool = True, skip_special_tokens: bool = False) -> str:
        """Text of the most likely token of each frame.

        Repeats are grouped, blanks dropped, delimiters read as spaces, the ends stripped, letters lowered if
        `do_lower_case`.

        Args:
            ids: `[frames]`, a list, array or tensor.
            group_tokens: False for ids that are text already, such as labels.
            skip_special_tokens: leave out the beginning, end and unknown token. (transformers leaves out the
                blank as well before it groups, and so loses doubled letters.)

        Raises:
            TextError: an id that the vocabulary lacks, and no unknown token to stand for it.
        """
        return self.decode_with_offsets(ids, group_tokens=group_tokens, skip_special_tokens=skip_special_tokens).text

    def batch_decode(self, ids: Iterable[Iterable[int]], **options: bool) -> list[str]:
        """`decode` for each row of `[batch, frames]`."""
        return [self.decode(row, **options) for row in ids]

    def decode_with_offsets(
        self, ids: Iterable[int], *, group_tokens: bool = True, skip_special_tokens: bool = False
    ) -> DecodedText:
        """As `decode`, with the frames each character and each word was read from.

        A character spans its repeats; a word begins with its first character and ends with its last. Samples are
        frames times the hop (320). Letters are lowered here as in the text.

        Raises:
            TextError: as `decode`.
        """
        tokens = [self._token(int(i)) for i in ids]
        runs = ((t, len(list(group))) for t, group in groupby(tokens)) if group_tokens else ((t, 1) for t in tokens)
        skipped = {self.pad_token}
        if skip_special_tokens:
            skipped |= {t for t in (self.bos_token, self.eos_token, self.unk_token) if t} - {self.delimiter}
        pieces: list[Offset] = []
        at = 0
        for token, length in runs:
            if token not in skipped:
                pieces.append(Offset(self.space if token == self.delimiter else token, at, at + length))
            at += length
        text = "".join(p.text for p in pieces).strip()
        words: list[Offset] = []
        for blank, group in groupby(pieces, key=lambda p: p.text == self.space):
            if not blank:
                inside = list(group)
                words.append(Offset("".join(p.text for p in inside), inside[0].start_frames, inside[-1].end_frames))
        if self.do_lower_case:
            text = text.lower()
            pieces, words = ([p._replace(text=p.text.lower()) for p in part] for part in (pieces, words))
        return DecodedText(text, pieces, words)

    def _token(self, index: int) -> str:
        token = self._tokens.get(index, self.unk_token)
        if token is None:
            raise TextError(
                f"id {index} is not in the vocabulary of {len(self.vocab)} tokens (largest id "
                f"{self.vocab_size - 1}); the tokenizer and the model do not belong together"
            )
        return token

    # Files ----------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None, target_lang: str | None = None
    ) -> CTCTokenizer:
        """Read the tokenizer files of a folder or of a hub repository.

        Args:
            target_lang: language of a vocabulary of several, in place of the one in the file.

        Raises:
            CheckpointError: no `vocab.json`, unreadable files, or the files of another kind of tokenizer.
        """
        source = Source(name_or_path, revision)
        vocab = read_json(source.need("vocab.json"))
        config, special, added = (
            read_json(path) if (path := source.find(name)) else {}
            for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
        )
        kind = config.pop("tokenizer_class", None) or CLASSES[0]
        if kind not in CLASSES:
            raise CheckpointError(f"{source} has a tokenizer of class {kind!r}, expected {CLASSES[0]!r}")
        if "added_tokens_decoder" in config:
            added |= {_content(v): int(i) for i, v in config.pop("added_tokens_decoder").items()}
        else:
            config |= special  # files of before 2023: the map speaks last
        options: dict[str, Any] = {k: _content(config.pop(k, default)) for k, default in SPECIAL.items()}
        for name in ("word_delimiter_token", "replace_word_delimiter_char", "do_lower_case"):
            if config.get(name) is not None:
                options[name] = _content(config[name])
            config.pop(name, None)
        language = config.pop("target_lang", None)
        try:
            return cls(vocab, target_lang=target_lang or language, added_tokens=added, extra=config, **options)
        except ConfigurationError as e:
            raise CheckpointError(f"the tokenizer files of {source} cannot be used: {e}") from e

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the four files of transformers' `Wav2Vec2CTCTokenizer`.

        Raises:
            CheckpointError: the folder cannot be written; nothing is half-written.
        """
        special = {k: v for k, v in self._special().items() if v is not None}
        config = {
            **self.extra,
            **self._special(),
            "word_delimiter_token": self.delimiter,
            "replace_word_delimiter_char": self.space,
            "do_lower_case": self.do_lower_case,
            "target_lang": self.target_lang,
            "tokenizer_class": CLASSES[0],
        }
        # transformers would give a token without an id here a new one behind the vocabulary
        named = {i: t for t, i in self.vocab.items() if t in {*special.values(), self.delimiter, *self._added}}
        in_file = self._written[self.target_lang] if self.target_lang is not None else self._written
        config["added_tokens_decoder"] = {
            str(i): {
                "content": t,
                "lstrip": len(t) > 1 and t in in_file,
                "normalized": False,
                "rstrip": len(t) > 1 and t in in_file,
                "single_word": False,
                "special": t not in in_file or len(t) == 1,
            }
            for i, t in sorted(named.items())
        }
        with staged(folder) as stage:
            write_json(stage / "vocab.json", self._written)
            write_json(stage / "tokenizer_config.json", config)
            write_json(stage / "special_tokens_map.json", special)
            if self._added:
                write_json(stage / "added_tokens.json", self._added)

    def _special(self) -> dict[str, str | None]:
        return {k: getattr(self, k) for k in SPECIAL}


def _content(value: Any) -> Any:
    """The text of a special token, which may be written as an object with its options."""
    return value["content"] if isinstance(value, dict) else value
