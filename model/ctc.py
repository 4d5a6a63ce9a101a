"""`WavLMForCTC`: letters from frames (Graves et al. 2006), whole or streaming."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import Greedy, ctc_greedy
from .config import WavLMConfig
from .context import StreamingContext
from .errors import ConfigurationError
from .outputs import HeadOutput, StepOutput
from .pretrained import PretrainedMixin
from .states import StreamStates
from .trainable import TrainableMixin
from .wavlm import WavLMModel, initialise


def ctc_loss(logits: Tensor, lengths: Tensor, labels: Tensor, config: WavLMConfig) -> Tensor:
    """Connectionist temporal classification, computed in float32.

    Args:
        logits: `[batch, frames, vocab]`.
        lengths: int64 `[batch]`, valid frames.
        labels: int64 `[batch, longest]`; negative ones and the blank are no labels.

    Raises:
        ConfigurationError: a label beyond the vocabulary.
    """
    if labels.numel() and int(labels.max()) >= config.vocab_size:
        raise ConfigurationError(
            f"label {int(labels.max())} is beyond the vocabulary of {config.vocab_size} tokens; labels and "
            "checkpoint must come from the same tokenizer"
        )
    kept = (labels >= 0) & (labels != config.pad_token_id)
    log_probabilities = F.log_softmax(logits.float(), -1).transpose(0, 1)
    with torch.autocast(logits.device.type, enabled=False):
        return F.ctc_loss(
            log_probabilities,
            labels.masked_select(kept),
            lengths,
            kept.sum(-1),
            blank=config.pad_token_id,
            reduction=config.ctc_loss_reduction,
            zero_infinity=config.ctc_zero_infinity,
        )


class WavLMForCTC(PretrainedMixin, TrainableMixin, nn.Module):
    """WavLM with a linear map to tokens; the blank is `config.pad_token_id`."""

    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.config = config
        self.wavlm = WavLMModel(config)
        self.lm_head = nn.Linear(config.output_hidden_size or config.hidden_size, config.vocab_size)
        initialise(self.lm_head, config)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        context: StreamingContext | None = None,
        mask_time_indices: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        statistics: str | None = None,
    ) -> HeadOutput:
        """Logits `[batch, frames, vocab]`, and the loss where labels are given; arguments as `WavLMModel`."""
        base = self.wavlm(
            input_values,
            attention_mask,
            context=context,
            mask_time_indices=mask_time_indices,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            statistics=statistics,
        )
        logits = self.lm_head(F.dropout(base.last_hidden_state, self.config.final_dropout, self.training))
        loss = None
        if labels is not None:
            if attention_mask is None:
                samples = torch.full((len(logits),), input_values.shape[1], device=logits.device)
            else:
                samples = attention_mask.sum(-1).long()
            # the formula of an adapter may promise more frames than there are, that of a short row less than 0
            lengths = self.wavlm.output_lengths(samples).clamp(0, logits.shape[1])
            loss = ctc_loss(logits, lengths, labels, self.config)
        return HeadOutput(logits, loss, base.hidden_states, base.attentions)

    def feature_lengths(self, sample_lengths: Tensor) -> Tensor:
        """See `WavLMModel.feature_lengths`."""
        return self.wavlm.feature_lengths(sample_lengths)

    # Streams ---------------------------------------------------------------------------------------------

    def new_states(
        self,
        slots: int,
        context: StreamingContext,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        ring_dtype: torch.dtype | None = None,
    ) -> StreamStates:
        """See `WavLMModel.new_states`."""
        return self.wavlm.new_states(slots, context, device=device, dtype=dtype, ring_dtype=ring_dtype)

    def listen(
        self, states: StreamStates, slots: Sequence[int], samples: Tensor, lengths: Sequence[int] | None = None
    ) -> None:
        """See `WavLMModel.listen`."""
        self.wavlm.listen(states, slots, samples, lengths)

    @torch.no_grad()
    def greedy(self, hidden: Tensor, silent: Sequence[int] | None = None) -> Greedy:
        """The best output of every frame and how probable it is, without writing logits.

        Args:
            hidden: `[..., hidden]`, the model's `last_hidden_state`.
            silent: one or two outputs whose probabilities are wanted too; None: the blank.

        Raises:
            ConfigurationError: outputs that do not exist.
        """
        try:
            return ctc_greedy(
                hidden, self.lm_head.weight, self.lm_head.bias, [self.config.pad_token_id] if silent is None else silent
            )
        except ValueError as e:
            raise ConfigurationError(str(e)) from e

    @torch.no_grad()
    def step(
        self,
        states: StreamStates,
        slots: Sequence[int],
        *,
        commit: bool = True,
        final: bool | Sequence[bool] = False,
        layers: bool = False,
        greedy: bool | Sequence[int] = False,
    ) -> StepOutput:
        """See `WavLMModel.step`; the output carries logits `[slots, frames, vocab]` in float32.

        With `greedy` it carries what a greedy decoder reads instead, see `greedy`, and no logits are written; a
        sequence names the outputs whose probabilities are wanted in place of the blank's.

        Raises:
            ConfigurationError: outputs that do not exist.
        """
        out = self.wavlm.step(states, slots, commit=commit, final=final, layers=layers)
        if greedy is False:
            out.logits = self.lm_head(out.last_hidden_state).float()
        else:
            out.greedy = self.greedy(out.last_hidden_state, None if greedy is True else greedy)
        return out
