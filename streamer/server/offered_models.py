"""`OfferedModels`: the models of a server by their names, each with its batcher; clients choose from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...model.errors import ConfigurationError, WavLMLiveError
from ..batcher import Batcher
from ..batcher_statistics import BatcherStatistics
from ..protocols.commands import Open
from ..protocols.settings_of_clients import Contexts
from ..recogniser import Recogniser
from ..session_settings import SessionSettings
from .settings import ServerSettings


class OfferedModels:
    """All models of one server.

    Args:
        batchers: of one device, the default model's first.
        settings: of the server.

    Raises:
        ConfigurationError: none, two of one name, or batchers that do not share their device.
    """

    def __init__(self, batchers: Sequence[Batcher], settings: ServerSettings) -> None:
        names = [batcher.recogniser.name for batcher in batchers]
        if not names or len(set(names)) < len(names):
            raise ConfigurationError(f"a server needs models of different names, and got {', '.join(names) or 'none'}")
        if len({batcher.device for batcher in batchers}) > 1:
            raise ConfigurationError("the batchers of one server must share their device: Batcher(..., device=device)")
        self.batchers = dict(zip(names, batchers, strict=True))
        self.names = tuple(names)
        self._settings = settings

    @property
    def default(self) -> Batcher:
        """Of the model that streams get which name none."""
        return self.batchers[self.names[0]]

    def batcher(self, name: str = "") -> Batcher:
        """Of the model of this name; the default's where there is none of it."""
        return self.batchers.get(name, self.default)

    def session(self, name: str = "") -> SessionSettings:
        """How streams of a model listen where their client does not say; the default's where there is none of it."""
        settings = self._settings
        if name in settings.sessions:
            return settings.sessions[name]
        if name not in self.batchers or name == self.names[0]:
            return settings.session
        # voices that were enrolled are another model's
        speakers = replace(settings.session.speakers, enabled=False, known_path=None)
        context = self.batchers[name].recogniser.contexts["default"]
        return replace(settings.session, context=context, speakers=speakers)

    def choose(self, name: str) -> tuple[Contexts, SessionSettings]:
        """Contexts of a model, and how its streams listen where their client does not say.

        Raises:
            ConfigurationError: no such model is offered; the message lists those that are.
        """
        if name not in self.batchers:
            raise ConfigurationError(f"this server does not offer a model {name!r:.80}; it has {', '.join(self.names)}")
        return self.batchers[name].recogniser.context, self.session(name)

    def fitted(self, request: Open) -> Open:
        """A stream that a compatible protocol opens, which knows the default's settings and takes any name of a model:
        what of the settings belongs to the default model becomes the chosen one's."""
        base, own, settings = self._settings.session, self.session(request.model), request.settings
        if own is base:
            return request
        if settings.context == base.context:
            settings = replace(settings, context=own.context)
        if settings.speakers == base.speakers:
            settings = replace(settings, speakers=own.speakers)
        return replace(request, settings=settings)

    def statistics(self) -> BatcherStatistics:
        """How all batchers stand now, together."""
        return Batcher.statistics_of(list(self.batchers.values()))

    def descriptions(self) -> list[dict[str, object]]:
        """For clients that choose: name, contexts by name as "left,chunk,right", whether speakers can be told apart."""
        return [
            {
                "model": name,
                "contexts": {key: str(context) for key, context in batcher.recogniser.contexts.items()},
                "speakers": tells_speakers(batcher.recogniser),
            }
            for name, batcher in self.batchers.items()
        ]


def tells_speakers(recogniser: Recogniser) -> bool:
    """Whether the model has voice heads that can be used."""
    try:
        recogniser.voice_heads()
    except WavLMLiveError:
        return False
    return True
