"""Tensor operations of a streaming WavLM; knows nothing of models or streams."""

from .gated_bias_attention import ChunkedAttention, gated_bias_attention
from .relative_bias import bucket_of, relative_vector, shear

__all__ = ["ChunkedAttention", "bucket_of", "gated_bias_attention", "relative_vector", "shear"]
