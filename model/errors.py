"""The exceptions of the project: one small tree, so that a caller can catch all of them at once.

A message says what came, what was expected and what to do about it. Programming mistakes inside one call (a
tensor of the wrong rank given to a kernel) stay plain `ValueError` or `TypeError`.
"""

from __future__ import annotations


class WavLMLiveError(Exception):
    """Base of everything this project raises on purpose."""


class ConfigurationError(WavLMLiveError, ValueError):
    """A configuration field, a streaming context or an option holds a value that cannot work."""


class CheckpointError(WavLMLiveError):
    """A checkpoint is missing, is no WavLM, or its tensors do not fit the configuration."""


class AudioError(WavLMLiveError):
    """Sound that cannot be used: not audio, truncated, empty, not finite, at an unexpected rate."""


class DeviceError(WavLMLiveError):
    """A compute device or a microphone that is not there or cannot be opened."""


class StreamError(WavLMLiveError):
    """A stream was used in a way its state does not allow (a slot out of range, too many samples at once)."""


class TextError(WavLMLiveError, ValueError):
    """Text that the tokenizer cannot write with its vocabulary."""


class OutputError(WavLMLiveError):
    """A result that cannot be written: no such folder, no permission, no space left on the disk."""
