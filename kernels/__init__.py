"""Tensor operations of a streaming WavLM; knows nothing of models or streams."""

from .gated_bias_attention import attention_bias, gated_bias_attention
from .reference import attention_with_weights
from .relative_bias import bucket_of, relative_vector
from .streaming_attention import streaming_attention, streaming_bias

__all__ = [
    "attention_bias",
    "attention_with_weights",
    "bucket_of",
    "gated_bias_attention",
    "relative_vector",
    "streaming_attention",
    "streaming_bias",
]
