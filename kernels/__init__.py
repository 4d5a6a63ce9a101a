"""Tensor operations of a streaming WavLM; knows nothing of models or streams."""

from .ctc_greedy import Greedy, ctc_greedy
from .gated_bias_attention import attention_bias, gated_bias_attention
from .position_convolution import position_convolution
from .reference import attention_with_weights
from .relative_bias import bucket_of, relative_vector
from .rings import new_ring, ring_room
from .streaming_attention import streaming_attention, streaming_bias
from .strided_convolution import channels_last, strided_convolution

__all__ = [
    "Greedy",
    "attention_bias",
    "attention_with_weights",
    "bucket_of",
    "channels_last",
    "ctc_greedy",
    "gated_bias_attention",
    "new_ring",
    "position_convolution",
    "relative_vector",
    "ring_room",
    "streaming_attention",
    "streaming_bias",
    "strided_convolution",
]
