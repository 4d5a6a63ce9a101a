"""A stream that is put away goes on exactly where it was, in another batcher or process; nothing else gets in."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from wavlm_live.model import ConfigurationError, StreamError, StreamingContext
from wavlm_live.streamer import Partial
from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.decoding import DecodingSettings
from wavlm_live.streamer.endpointing import EndpointRules
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.saved_stream import SavedStream
from wavlm_live.streamer.session_settings import SessionSettings

FREE = BatcherRules(calibrate=False, most_load=10, late_s=3600)
WAYS = {
    "greedy": DecodingSettings(),
    "beam": DecodingSettings(method="beam", beam_width=8),
    "hotwords": DecodingSettings(method="beam", hotwords=(("abba", 2.0), ("cafe dead", 1.0))),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_goes_on_exactly(recogniser, clock, noise, heard, settings_of, way):
    """Saved at odd places, also with sound that no step has seen, and with marks that wait; to the last bit."""
    settings = settings_of(decoding=WAYS[way], partial_hop_ms=100, activity=True)
    sound = noise(2.5, 11)
    for place in (333, 9999, 26_234):
        here, there = (Batcher(recogniser, FREE, clock=clock) for _ in range(2))
        there.open(settings)  # its slots are other ones
        first, second = heard(), heard()
        stream = here.open(settings, first)
        for start in range(0, place, 1000):
            stream.feed(sound[start : min(place, start + 1000)])
            here.settle()
        stream.mark("waits")
        saved = stream.save()
        before = len(first.events)
        moved = there.open(None, second, saved=SavedStream.from_bytes(saved.to_bytes()))
        assert (saved.samples_taken, moved.samples_taken) == (place, place)
        for both in (stream, moved):
            for start in range(place, len(sound), 1000):
                both.feed(sound[start : start + 1000])
                both._batcher.settle()
            both.finish()
            assert both.wait(0)
        assert [e for e in second.events if not isinstance(e, Partial)] == [
            e for e in first.events[before:] if not isinstance(e, Partial)
        ]
        assert second.text


def test_in_another_process(tiny_model, tmp_path, noise, heard):
    settings = SessionSettings(endpoint=EndpointRules(silence_ms=200, max_segment_s=1), partial_hop_ms=0)
    sound, expected = noise(3, 12), heard()
    batcher = Batcher(Recogniser.load(tiny_model, "cpu"), FREE)
    stream = batcher.open(settings, expected)
    stream.feed(sound[:20_000])
    (tmp_path / "saved").write_bytes(stream.save().to_bytes())
    before = len(expected.events)
    np.save(tmp_path / "rest.npy", sound[20_000:])
    stream.feed(sound[20_000:])
    stream.finish()
    batcher.settle()
    code = f"""
import numpy as np, torch
torch.set_num_threads(1)
from wavlm_live.streamer import to_wire
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.saved_stream import SavedStream
batcher = Batcher(Recogniser.load({str(tiny_model)!r}, "cpu"))
saved = SavedStream.from_bytes(open({str(tmp_path / "saved")!r}, "rb").read())
events = []
stream = batcher.open(None, events.extend, saved=saved)
stream.feed(np.load({str(tmp_path / "rest.npy")!r}))
stream.finish()
batcher.settle()
print([to_wire(e) for e in events])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr
    from wavlm_live.streamer import to_wire

    assert done.stdout.strip() == str([to_wire(e) for e in expected.events[before:]])
    assert before < len(expected.events)


def test_what_does_not_fit_is_refused(recogniser, noise, settings_of, tiny_model):
    batcher = Batcher(recogniser, FREE)
    stream = batcher.open(settings_of())
    stream.feed(noise(1, 1))
    saved = stream.save()
    with pytest.raises(StreamError, match="another model"):
        Batcher(Recogniser.load(tiny_model, "cpu"), FREE).open(saved=saved)
    with pytest.raises(ConfigurationError, match="own settings"):
        batcher.open(settings_of(context=StreamingContext(4, 4, 0)), saved=saved)
    with pytest.raises(StreamError, match="no saved stream"):
        SavedStream.from_bytes(b"something else")
    stream.finish()
    with pytest.raises(StreamError, match="finished"):
        stream.save()
    batcher.settle()
    assert batcher.statistics().sessions == 0
    assert sum(group.streams for group in batcher.groups.values()) == 0


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/should-not-exist",)


@pytest.mark.parametrize("value", [Evil(), {"plan": Evil()}, os.system, eval, pickle.Unpickler], ids=repr)
def test_nothing_foreign_is_unpickled(recogniser, settings_of, value):
    batcher = Batcher(recogniser, FREE)
    stream = batcher.open(settings_of())
    batcher.settle()
    bad = replace(stream.save(), knowledge=pickle.dumps(value))
    with pytest.raises(StreamError, match="no saved stream has"):
        batcher.open(saved=bad)
    assert not os.path.exists("/tmp/should-not-exist")


def test_it_is_saved_behind_what_was_fed(recogniser, noise, settings_of):
    """In a running batcher, from the caller's thread."""
    with Batcher(recogniser, FREE) as batcher:
        stream = batcher.open(settings_of())
        for _ in range(20):
            stream.feed(noise(0.2, 3))
        saved = stream.save()
        assert saved.samples_taken == 20 * 3200
        assert int(saved.state["heard_samples"]) > 19 * 3200
        stream.abort()
        assert stream.wait(10)
