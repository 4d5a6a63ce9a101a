"""`SessionSettings`: how one session listens, and which of it can change while it does."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from ..model.context import StreamingContext
from ..model.errors import ConfigurationError
from .decoding import DecodingSettings
from .endpointing import EndpointRules
from .speakers import SpeakerRules
from .voice_activity import SpeechRules


@dataclass(frozen=True)
class SessionSettings:
    """How one session listens.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    context: StreamingContext | None = None
    """What a step of the encoder sees; None: the model's default."""
    partial_hop_ms: int = 100
    """New sound from one provisional pass to the next; 0: partials only when a chunk is committed, which is
    the cheapest and right for files that nobody watches."""
    endpoint: EndpointRules = field(default_factory=EndpointRules)
    """When a segment ends."""
    speech: SpeechRules = field(default_factory=SpeechRules)
    """When speech starts and stops, by which detector, and whether words need a voice."""
    activity: bool = False
    """Also give `Activity` events, with a probability for each frame or window of the detector."""
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    """How frames become text: greedily, or by a beam with a language model and hotwords."""
    sleep_after_s: float = 0.0
    """Without a voice for so long, by the independent detector, the stream costs no step of the encoder until somebody
    speaks; times stay exact. It changes what the encoder has seen, see `sleep`. 0: never."""
    speakers: SpeakerRules = field(default_factory=SpeakerRules)
    """Whether `Speaker` events are given, and how speakers are told apart."""

    def __post_init__(self) -> None:
        seconds = self.sleep_after_s
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not (seconds == 0 or seconds >= 1):
            raise ConfigurationError(
                f"SessionSettings.sleep_after_s is {seconds!r}, expected 0 (never) or at least 1 s"
            )
        value = self.partial_hop_ms
        if type(value) is not int or not (value == 0 or value >= 10):
            raise ConfigurationError(
                f"SessionSettings.partial_hop_ms is {value!r}, expected 0 (off) or whole milliseconds from 10"
            )

    @property
    def need_heads(self) -> bool:
        """Whether the model's voice heads have to read its frames."""
        return self.speakers.enabled or self.speech.detector == "head"

    def filled(self, old: SessionSettings) -> SessionSettings:
        """With the numbers of a running session's settings where these leave them open."""
        numbers = {f.name: getattr(old.decoding, f.name) for f in fields(old.decoding)}
        left = {name: value for name, value in numbers.items() if getattr(self.decoding, name) is None}
        speech = self.speech
        if speech.words_need_voice is None:
            speech = replace(speech, words_need_voice=old.speech.words_need_voice)
        return replace(self, decoding=replace(self.decoding, **left), speech=speech)

    def check_change(self, old: SessionSettings) -> None:
        """Whether a session that listens by `old` can go on by these, `filled` from them.

        Raises:
            ConfigurationError: something differs that is fixed when a stream begins.
        """
        if (self.context or old.context) != old.context:
            raise ConfigurationError("the context of a stream is fixed; open a new stream for another")
        if self.sleep_after_s != old.sleep_after_s:
            raise ConfigurationError(
                "SessionSettings.sleep_after_s of a stream is fixed; open a new stream for another"
            )
        if replace(self.decoding, hotwords=old.decoding.hotwords) != old.decoding:
            raise ConfigurationError(
                "of the decoding settings only the hotwords can change within a stream (and only with method "
                '"beam"); open a new stream for others'
            )
        if self.speakers != old.speakers:
            raise ConfigurationError("how a stream tells speakers apart is fixed; open a new stream for another way")
        for name in ("detector", "words_need_voice"):
            if getattr(self.speech, name) != getattr(old.speech, name):
                raise ConfigurationError(f"SpeechRules.{name} of a stream is fixed; open a new stream for another")
