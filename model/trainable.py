"""Switches of training that every model has: what stays frozen, and memory against time."""

from __future__ import annotations

from typing import cast

from torch import nn


class TrainableMixin:
    """For a module that is a `WavLMModel` or holds one under the name `wavlm`; names of transformers."""

    def freeze_feature_encoder(self) -> None:
        """Take the convolutional front end out of training."""
        self._base_model().feature_extractor.requires_grad_(False)

    def freeze_base_model(self) -> None:
        """Take the whole base model out of training, so that the head alone learns."""
        self._base_model().requires_grad_(False)

    def gradient_checkpointing_enable(self) -> None:
        """Compute each layer a second time in the backward pass instead of keeping what it computed.

        Training then needs about a third more time and, for long recordings, a small part of the memory;
        results and gradients stay the same. Without effect outside training mode.
        """
        self._checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep everything for the backward pass again."""
        self._checkpointing(False)

    def _base_model(self) -> nn.Module:
        return getattr(self, "wavlm", cast(nn.Module, self))

    def _checkpointing(self, on: bool) -> None:
        for part in cast(nn.Module, self).modules():
            if hasattr(part, "gradient_checkpointing"):
                setattr(part, "gradient_checkpointing", on)  # noqa: B010 (modules type their attributes as tensors)
