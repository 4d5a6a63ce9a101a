"""WavLM, whole and streaming: what the network computes. Knows audio as tensors only.

The names below are imported when they are first used, so that `import wavlm_live.model` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .audio_frame_classification import WavLMForAudioFrameClassification
    from .config import WavLMConfig
    from .context import StreamingContext
    from .ctc import WavLMForCTC
    from .errors import (
        AudioError,
        CheckpointError,
        ConfigurationError,
        DeviceError,
        StreamError,
        TextError,
        WavLMLiveError,
    )
    from .outputs import BaseOutput, HeadOutput, StepOutput, XVectorOutput
    from .processor import WavLMProcessor
    from .sequence_classification import WavLMForSequenceClassification
    from .states import StreamStates
    from .tokenizer import CTCTokenizer
    from .wavlm import WavLMModel
    from .xvector import WavLMForXVector

_HOME = {
    "AudioError": "errors",
    "BaseOutput": "outputs",
    "CTCTokenizer": "tokenizer",
    "CheckpointError": "errors",
    "ConfigurationError": "errors",
    "DeviceError": "errors",
    "HeadOutput": "outputs",
    "StepOutput": "outputs",
    "StreamError": "errors",
    "StreamStates": "states",
    "StreamingContext": "context",
    "TextError": "errors",
    "WavLMConfig": "config",
    "WavLMForAudioFrameClassification": "audio_frame_classification",
    "WavLMForCTC": "ctc",
    "WavLMForSequenceClassification": "sequence_classification",
    "WavLMForXVector": "xvector",
    "WavLMLiveError": "errors",
    "WavLMModel": "wavlm",
    "WavLMProcessor": "processor",
    "XVectorOutput": "outputs",
}

__all__ = [
    "AudioError",
    "BaseOutput",
    "CTCTokenizer",
    "CheckpointError",
    "ConfigurationError",
    "DeviceError",
    "HeadOutput",
    "StepOutput",
    "StreamError",
    "StreamStates",
    "StreamingContext",
    "TextError",
    "WavLMConfig",
    "WavLMForAudioFrameClassification",
    "WavLMForCTC",
    "WavLMForSequenceClassification",
    "WavLMForXVector",
    "WavLMLiveError",
    "WavLMModel",
    "WavLMProcessor",
    "XVectorOutput",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
