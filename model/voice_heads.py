"""`VoiceHeads`: the light heads that read a streaming encoder's layers: who speaks, and whether anybody does.

A model's folder may hold them beside its weights: `heads.json` (sizes, and numbers that were tuned on held-out speech)
and `heads.safetensors`. They have the parameters of `WavLMForAudioFrameClassification` and `WavLMForXVector` without
`wavlm.*`, after the prefixes `activity.` and `speaker.`. They belong to one encoder, of which `heads.json` holds a few
weights, so that heads of another are refused.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .config import WavLMConfig
from .errors import CheckpointError, ConfigurationError
from .folders import Source, read_json, staged, write_json
from .pooling import weighted_layer_sum
from .time_delay import TimeDelayNetwork
from .voice_model import VoiceModel
from .wavlm import WavLMModel

INDEX, WEIGHTS = "heads.json", "heads.safetensors"
SAMPLED = 6
"""Weights of each chosen tensor that tell encoders apart."""
FIELDS = ("tdnn_dim", "tdnn_kernel", "tdnn_dilation", "xvector_output_dim")


@dataclass(frozen=True)
class SpeakerNumbers:
    """What a speaker head's cosines mean, tuned on speakers that it did not learn from.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    new_below: float = 0.4
    """A stretch whose cosine to every speaker so far is below this is somebody new."""
    known_above: float = 0.6
    """An enrolled speaker is recognised from this cosine on."""
    stay_bonus: float = 0.1
    """Is added to the cosine of whoever spoke just before without a pause."""
    same_above: float = 4.0
    """By a `VoiceModel`: a stretch whose log odds of being of a voice are below this for every voice so far is somebody
    new."""
    stay_odds: float = 2.0
    """Is added to the log odds of whoever spoke just before without a pause."""
    slope: float = 10.0
    """With `offset`, the probability that a cosine is of one speaker: sigmoid(slope * cosine + offset)."""
    offset: float = -4.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not -1000 < value < 1000:
                raise ConfigurationError(f"SpeakerNumbers.{field.name} is {value!r}, expected a number")

    def probability(self, cosine: float) -> float:
        """That two stretches with this cosine are of one speaker, where both answers are as likely beforehand."""
        return float(1.0 / (1.0 + np.exp(-np.clip(self.slope * cosine + self.offset, -60.0, 60.0))))


class ActivityHead(nn.Module):
    """A linear classifier of frames, silence and speech, on a weighted sum of layers."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        """Weighted sum `[..., frames, hidden]` -> probability of speech `[..., frames]`."""
        return self.classifier(hidden).softmax(-1)[..., 1]


class SpeakerHead(TimeDelayNetwork):
    """An x-vector network on a weighted sum of layers, up to the embedding."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.build(config)


@dataclass(frozen=True)
class VoiceFrames:
    """What the heads make of consecutive frames of one stream."""

    activity: np.ndarray | None
    """Probability of speech, float32 `[frames]`."""
    speaker: np.ndarray | None
    """What the time delay network reads, float32 `[frames, tdnn_dim[0]]`."""

    def __getitem__(self, part: slice) -> VoiceFrames:
        """Some of the frames."""
        return VoiceFrames(
            None if self.activity is None else self.activity[part],
            None if self.speaker is None else self.speaker[part],
        )

    @classmethod
    def none(cls, heads: VoiceHeads) -> VoiceFrames:
        """Of no frame."""
        width = 0 if heads.speaker is None else heads.config.tdnn_dim[0]
        return cls(
            None if heads.activity is None else np.zeros(0, np.float32),
            None if heads.speaker is None else np.zeros((0, width), np.float32),
        )


class VoiceHeads(nn.Module):
    """The heads of one encoder, ready to read its layers; always float32.

    Args:
        config: of the encoder, with the sizes of the x-vector network.
        activity, speaker: which heads there are.
        numbers: of the speaker head.
        encoder: what `sample_of` says of the encoder.
        about: what else `heads.json` says, such as figures.
    """

    def __init__(
        self,
        config: WavLMConfig,
        *,
        activity: bool = True,
        speaker: bool = True,
        numbers: SpeakerNumbers | None = None,
        encoder: Mapping[str, Sequence[float]] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.numbers = numbers or SpeakerNumbers()
        self.encoder = dict(encoder or {})
        self.about = dict(about or {})
        self.activity = ActivityHead(config) if activity else None
        self.speaker = SpeakerHead(config) if speaker else None
        self.voices: VoiceModel | None = None
        """Tells the vectors of one voice from those of two; None: heads that have no such model, cosines do."""

    @property
    def values(self) -> int:
        """Numbers that the heads give of a frame, see `measure`."""
        return (self.activity is not None) + (0 if self.speaker is None else self.config.tdnn_dim[0])

    @torch.no_grad()
    def measure(self, hidden_states: Sequence[Tensor]) -> Tensor:
        """What the heads say of a step's frames, on the device; nothing in it depends on what the tensors hold.

        Args:
            hidden_states: input of the first layer and output of each, `[rows, frames, hidden]` each.

        Returns:
            float32 `[rows, frames, values]`: the probability of speech, and what the time delay network reads, of the
            heads that there are.
        """
        states, found = [state.float() for state in hidden_states], []
        if self.activity is not None:
            found.append(self.activity(weighted_layer_sum(states, self.activity.layer_weights)).unsqueeze(-1))
        if self.speaker is not None:
            found.append(self.speaker.projector(weighted_layer_sum(states, self.speaker.layer_weights)))
        return torch.cat(found, -1)

    def frames_of(self, values: np.ndarray) -> VoiceFrames:
        """What `measure` gave of one stream, float32 `[frames, values]`, head by head."""
        first = int(self.activity is not None)
        return VoiceFrames(
            values[:, 0] if self.activity is not None else None, values[:, first:] if self.speaker is not None else None
        )

    def read(self, hidden_states: Sequence[Tensor]) -> list[VoiceFrames]:
        """What the heads say of a step's frames.

        Args:
            hidden_states: input of the first layer and output of each, `[rows, frames, hidden]` each.

        Returns:
            One a row, of all its frames.
        """
        return [self.frames_of(values) for values in self.measure(hidden_states).cpu().numpy()]

    def ready(self, device: torch.device) -> VoiceHeads:
        """For use: what reads every frame on the encoder's device, the small rest on the host."""
        self.eval().requires_grad_(False)
        if self.activity is not None:
            self.activity.to(device)
        if self.speaker is not None:
            self.speaker.projector.to(device)
            self.speaker.layer_weights.data = self.speaker.layer_weights.data.to(device)
        return self

    @property
    def identity(self) -> str:
        """Tells speaker heads apart: vectors of one mean nothing to another."""
        if self.speaker is None:
            return ""
        total = 0
        for name, tensor in sorted(self.speaker.state_dict().items()):
            # through float16, in which heads are stored, so that saving changes nothing
            total = zlib.crc32(name.encode() + tensor.cpu().half().numpy().tobytes(), total)
        return f"{total:08x}-{self.config.xvector_output_dim}"

    def check(self, model: WavLMModel, name: str = "this model") -> None:
        """Refuse another encoder than the heads were trained on.

        Raises:
            CheckpointError: it is another.
        """
        found = sample_of(model)
        for key, values in self.encoder.items():
            here, there = np.array(found.get(key, [])), np.array(values)
            if here.shape != there.shape or np.abs(here - there).max() > 0.02 * np.abs(there).max() + 1e-4:
                raise CheckpointError(
                    f"the voice heads beside {name} were trained on another encoder ({key} differs); train them again: "
                    "wavlm-live train voices"
                )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `heads.json` and `heads.safetensors`, in float16, into a model's folder.

        Raises:
            CheckpointError: the folder cannot be written; then nothing in it has changed.
        """
        from safetensors.torch import save_file

        index: dict[str, Any] = {"format": 1, "encoder": self.encoder}
        if self.activity is not None:
            index["activity"] = {"labels": ["silence", "speech"]}
        if self.speaker is not None:
            sizes = {name: getattr(self.config, name) for name in FIELDS}
            index["speaker"] = {**sizes, "numbers": dataclasses.asdict(self.numbers)}
        index["about"] = self.about
        tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in self.state_dict().items()}
        with staged(folder) as stage:
            write_json(stage / INDEX, index)
            save_file(tensors, str(stage / WEIGHTS), metadata={"format": "pt"})

    @classmethod
    def find(cls, name_or_path: str | os.PathLike[str], config: WavLMConfig) -> VoiceHeads | None:
        """The heads in a model's folder; None where there are none.

        Args:
            config: of the encoder.

        Raises:
            CheckpointError: files that are broken, or heads of another width.
        """
        source = Source(name_or_path)
        index = source.find(INDEX)
        return None if index is None else cls._read(index, source.need(WEIGHTS), config)

    @classmethod
    def _read(cls, index_path: Path, weights: Path, config: WavLMConfig) -> VoiceHeads:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        index = read_json(index_path)
        if index.get("format") != 1:
            raise CheckpointError(f"{index_path} has format {index.get('format')!r}, this program reads 1")
        try:
            speaker = index.get("speaker")
            numbers = SpeakerNumbers(**speaker["numbers"]) if speaker else None
            if speaker:
                config = config.replace(**{name: speaker[name] for name in FIELDS})
            heads = cls(
                config,
                activity="activity" in index,
                speaker=speaker is not None,
                numbers=numbers,
                encoder=index["encoder"],
                about=index.get("about"),
            )
            tensors = load_file(str(weights))
            if any(name.startswith("voices.") for name in tensors):
                heads.voices = VoiceModel(config.xvector_output_dim)
            heads.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (KeyError, TypeError, AttributeError, RuntimeError, OSError, SafetensorError, ConfigurationError) as e:
            reason = " ".join(str(e).split())
            raise CheckpointError(f"the voice heads in {index_path.parent} cannot be used: {reason:.300}") from e
        return heads


def sample_of(model: WavLMModel) -> dict[str, list[float]]:
    """A few weights that no two trained encoders share, of tensors that stay what they are in every arithmetic."""
    wanted = ("conv.weight", "gru_rel_pos_linear.weight", "layer_norm.bias", "layer_norm.weight")
    found = {}
    for name, tensor in model.named_parameters():
        if name.endswith(wanted) and (name.startswith("encoder.layers.") or ".conv_layers." in name):
            values = tensor.detach().flatten()[:SAMPLED].float().cpu()
            found[name] = [float(f"{value:.5g}") for value in values.tolist()]
    return found
