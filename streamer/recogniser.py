"""`Recogniser`: a CTC model with all that belongs to it, loaded once and shared by the sessions it opens."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..kernels import dispatch
from ..model import CTCTokenizer, StreamingContext, WavLMForCTC
from ..model.errors import CheckpointError, ConfigurationError, DeviceError
from ..model.folders import Source, read_json
from ..model.voice_heads import VoiceHeads
from .ahead_encoder import AheadEncoder, Offline, encode_together
from .alone import AloneStream
from .alphabet import Alphabet
from .cpu_choice import adopt, choose_for_cpu
from .decoding_defaults import FILE, DecodingDefaults, read_defaults
from .encoder import EncoderStream, LocalEncoder
from .known_speakers import read_known
from .language_model import load_language_model
from .model_names import name_of
from .session import Session
from .session_settings import SessionSettings
from .speakers import SpeakerRules
from .thread_choice import ThreadChoice, choose_threads

logger = logging.getLogger(__name__)

GENERAL_CONTEXT = StreamingContext(250, 32, 8)
"""For checkpoints without a `streaming.json`: 5 s back, chunks of 640 ms, 160 ms ahead."""


def compute_device(name: str | torch.device = "auto") -> torch.device:
    """The device that a name stands for: `auto` is CUDA where there is one, else the CPU.

    Raises:
        DeviceError: no such device here, or a name other than auto, cpu, cuda and cuda:N.
    """
    text = str(name)
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if text == "cpu":
        return torch.device("cpu")
    kind, _, index = text.partition(":")
    if kind != "cuda" or not (index.isdecimal() or text == "cuda"):
        raise DeviceError(f"unknown compute device {text!r}; expected auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise DeviceError(
            f"compute device {text!r} asked for, but there is no CUDA device that torch {torch.__version__} can use; "
            "choose cpu, or install a driver and a CUDA build of torch"
        )
    if index and int(index) >= count:
        raise DeviceError(f"compute device {text!r} asked for, but there are {count}: cuda:0 to cuda:{count - 1}")
    return torch.device(text)


def alphabet_of(tokenizer: CTCTokenizer, outputs: int, prior: Mapping[str, float] | None = None) -> Alphabet:
    """The labels of a head with so many outputs, from its tokenizer.

    Args:
        tokenizer: of the head.
        outputs: how many it has.
        prior: as `DecodingDefaults` has it, for every token; None or empty: nobody measured it.

    Raises:
        CheckpointError: the tokenizer has tokens beyond the head's outputs, or the prior is of other tokens.
    """
    if tokenizer.vocab_size > outputs:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the CTC head has {outputs} outputs; they do not "
            "belong together"
        )
    special = {tokenizer.pad_token, tokenizer.delimiter, tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    labels = [""] * outputs
    for token, index in tokenizer.vocab.items():
        if token not in special:
            labels[index] = token.lower() if tokenizer.do_lower_case else token
    logarithms: list[float] = []
    if prior:
        if odd := sorted(prior.keys() ^ tokenizer.vocab.keys()):
            raise CheckpointError(
                f"{FILE} has a prior for other tokens than the tokenizer's, first {odd[0]!r}; measure it with "
                "benchmarks/tune_decoding.py, or take it out of the file"
            )
        logarithms = [0.0] * outputs  # of an output that no token names: it is never made likelier
        for token, index in tokenizer.vocab.items():
            logarithms[index] = float(prior[token])
    return Alphabet(tuple(labels), tokenizer.blank_id, tokenizer.delimiter_id, tuple(logarithms))


class Recogniser:
    """A model ready to listen.

    Args:
        model: with a CTC head; it is put into evaluation mode and stays on its device.
        tokenizer: of its outputs.
        name: shown to users.
        contexts: streaming contexts by name; "default" is used where a session names none.
        decoding: numbers that sessions decode with where they name none; None: the general ones.
        words_need_voice: what holds for sessions whose `SpeechRules` leave it open.
        heads: of the model; None: it has none.
        heads_path: folder or name where they are read when first needed, in place of `heads`.

    Raises:
        CheckpointError: model and tokenizer do not belong together.
    """

    def __init__(
        self,
        model: WavLMForCTC,
        tokenizer: CTCTokenizer,
        name: str = "",
        contexts: Mapping[str, StreamingContext] | None = None,
        decoding: DecodingDefaults | None = None,
        words_need_voice: bool = False,
        heads: VoiceHeads | None = None,
        heads_path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.compute = str(self.dtype).removeprefix("torch.")
        """What the model computes in, for people."""
        self.contexts = {"default": GENERAL_CONTEXT, **(contexts or {})}
        self.decoding = decoding or DecodingDefaults()
        self.words_need_voice = words_need_voice
        self._heads, self._heads_path = heads, heads_path
        self._tries_threads = False
        self._threads: dict[bool, ThreadChoice] = {}  # whether for many streams too
        self.alphabet = alphabet_of(tokenizer, model.config.vocab_size, self.decoding.prior)

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        *,
        name: str | None = None,
        threads: Literal["auto"] | None = None,
    ) -> Recogniser:
        """Load a checkpoint.

        Args:
            name_or_path: a folder or hub name in transformers' format, or the name of a bundled model; None: the
                bundled one.
            device: to compute on: auto, cpu, cuda or cuda:N.
            dtype: to compute in: float32 (None), bfloat16 or float16; "auto": what is fastest here, on a CPU found by
                trying (`cpu_choice`), on a GPU bfloat16.
            name: shown to users, on a server to clients; None: see `model_names.name_of`.
            threads: of steps on a CPU; "auto": found by trying when the first stream wants one (`thread_choice`).
                None: as many as torch takes, for all.

        Raises:
            CheckpointError: no such checkpoint, or one that cannot be used.
            DeviceError: no such device.
            ConfigurationError: another dtype.
        """
        where = compute_device(device)
        try:
            dispatch.report(where.type)
        except ValueError as e:  # an environment variable that is not understood: told now, not in the first step
            raise ConfigurationError(f"{e}; set it to one of these, or not at all") from e
        from ..model.bundled import bundled_names, bundled_path

        bundled = name_or_path is None or name_or_path in bundled_names()
        path = name_or_path
        if path is None or bundled:
            path = bundled_path(None if path is None else str(path))
        name = name or name_of(name_or_path)
        source = Source(path)
        tokenizer = CTCTokenizer.from_pretrained(path)
        contexts = read_contexts(source.find("streaming.json"))
        if not contexts:
            logger.info("%s names no streaming context, %s is used", name, GENERAL_CONTEXT)
        fastest = dtype == "auto"
        if fastest:
            dtype = None if where.type == "cpu" else "bfloat16"
        model = WavLMForCTC.from_pretrained(path, device=where, dtype=dtype)
        compute = adopt(model, choose_for_cpu(model)) if fastest and where.type == "cpu" else ""
        # measured for these alone, see docs/endpointing.md: other models may know noise, or hear what Silero does not
        made = cls(model, tokenizer, name, contexts, read_defaults(source.find(FILE)), words_need_voice=bundled)
        made._heads_path = path
        made.compute = compute or made.compute
        made._tries_threads = threads == "auto" and where.type == "cpu"
        return made

    def voice_heads(self) -> VoiceHeads:
        """The model's voice heads, read when first asked for.

        Raises:
            ConfigurationError: the model has none.
            CheckpointError: they cannot be read, or belong to another model.
        """
        if self._heads is None and self._heads_path is not None:
            heads = VoiceHeads.find(self._heads_path, self.model.config)
            if heads is not None:
                heads.check(self.model.wavlm, self.name or "this model")
                self._heads = heads.ready(self.device)
        if self._heads is None:
            raise ConfigurationError(
                f"{self.name or 'this model'} has no voice heads (heads.json), which speakers and the voice detector "
                '"head" need; train them with `wavlm-live train voices`, or use the bundled model'
            )
        return self._heads

    def known_speakers(self, rules: SpeakerRules) -> dict[str, np.ndarray]:
        """Vectors of the enrolled speakers that these rules name, if any.

        Raises:
            ConfigurationError: no such file, enrolled with another model, or a model without voice heads.
            CheckpointError: the heads cannot be read, or belong to another model.
        """
        identity = self.voice_heads().identity
        if not rules.enabled or rules.known_path is None:
            return {}
        return read_known(rules.known_path, identity)

    def thread_choice(self, many: bool = True) -> ThreadChoice | None:
        """How many threads compute steps of streams, measured when first asked for; None: as many as torch takes.

        Args:
            many: measure steps of many streams, too.
        """
        if not self._tries_threads:
            return None
        found = self._threads.get(True) or self._threads.get(many)
        if found is None:
            found = self._threads[many] = choose_threads(self.model, self.contexts["default"], many=many)
            logger.info("threads: %s", found)
        return found

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self.model.lm_head.weight.dtype

    def context(self, text: str = "default") -> StreamingContext:
        """A streaming context by its name in `streaming.json`, or by its frames: "left,chunk,right".

        Raises:
            ConfigurationError: neither; the message lists the names.
        """
        if text in self.contexts:
            return self.contexts[text]
        try:
            return StreamingContext.parse(text)
        except ConfigurationError as e:
            raise ConfigurationError(f"{e}; or one of this model's: {', '.join(self.contexts)}") from None

    def open(self, settings: SessionSettings | None = None, encoder: EncoderStream | None = None) -> Session:
        """Begin a stream.

        Args:
            settings: how to listen.
            encoder: that computes it, of this model and the settings' context; None: one of its own.

        Raises:
            ConfigurationError: the model cannot stream or has no voice heads where they are needed, the language
                model or the known speakers cannot be read, or the model cannot write the hotwords.
        """
        settings = settings or SessionSettings()
        speech = settings.speech
        if speech.words_need_voice is None:
            speech = replace(speech, words_need_voice=self.words_need_voice)
        settings = replace(settings, decoding=settings.decoding.filled(self.decoding), speech=speech)
        context = settings.context or self.contexts["default"]
        path = settings.decoding.lm_path
        language_model = None if path is None else load_language_model(path)
        encoder = encoder or LocalEncoder(self.model, context)
        known = None
        if settings.need_heads:
            encoder.heads = self.voice_heads()
            known = self.known_speakers(settings.speakers)
        return Session(encoder, self.alphabet, context, settings, self.name, language_model, known)

    def alone(self, settings: SessionSettings | None = None) -> AloneStream:
        """Begin the only stream of a process: on a batcher of its own, driven by the caller.

        Raises:
            ConfigurationError: as `open`.
        """
        return AloneStream(self, settings)

    def offline(self, settings: SessionSettings | None = None) -> Offline:
        """Begin a recording that is all there: the results of a stream at the highest speed, none partial.

        Raises:
            ConfigurationError: as `open`.
        """
        return Offline(self, settings or SessionSettings())

    def together(self, sounds: Sequence[np.ndarray], settings: SessionSettings | None = None) -> list[Offline]:
        """Compute whole recordings in as few passes as possible; what `offline` gives for each, fed its own sound.

        Args:
            sounds: float32 `[samples]` each, mono at 16 kHz, none of them empty.
            settings: how to listen.

        Raises:
            ConfigurationError: as `open`.
        """
        settings = settings or SessionSettings()
        encoders = [AheadEncoder(self.model, settings.context or self.contexts["default"]) for _ in sounds]
        if settings.need_heads:
            for encoder in encoders:
                encoder.heads = self.voice_heads()
        encode_together(encoders, sounds)
        return [Offline(self, settings, encoder) for encoder in encoders]


def read_contexts(path: Path | None) -> dict[str, StreamingContext]:
    """The named contexts of a `streaming.json`; none where there is no file.

    Raises:
        CheckpointError: a file that does not have the form `{"contexts": {"default": "left,chunk,right"}}`.
    """
    if path is None:
        return {}
    named = read_json(path).get("contexts")
    if not isinstance(named, dict) or not all(isinstance(v, str) for v in named.values()) or "default" not in named:
        raise CheckpointError(f'{path} has no "contexts" with a "default", such as {{"default": "250,32,8"}}')
    try:
        return {name: StreamingContext.parse(text) for name, text in named.items()}
    except ConfigurationError as e:
        raise CheckpointError(f"{path}: {e}") from e
