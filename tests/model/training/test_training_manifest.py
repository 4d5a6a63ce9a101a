"""Manifests: every bad row is counted with its reason, and none stops the reading."""

from __future__ import annotations

import io
import json
import resource
import signal
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_live.model.errors import AudioError, ConfigurationError, TextError
from wavlm_live.model.training.cache import SoundCache, build_cache, usable
from wavlm_live.model.training.data import load_data
from wavlm_live.model.training.letters import TOKENS, decode, encode, frames_needed, normalise_text
from wavlm_live.model.training.manifest import SoundFinder, fits, read_manifest

COLUMNS = ("file", "corpus", "split", "speaker", "duration_s", "text")


def write_table(path: Path, rows: Sequence[tuple[object, ...]], columns: tuple[str, ...] = COLUMNS) -> Path:
    path.write_text("\n".join("\t".join(map(str, row)) for row in [columns, *rows]) + "\n", encoding="utf-8")
    return path


def flac(seconds: float, rate: int = 16000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    wave = 0.1 * np.sin(np.arange(int(seconds * rate)) * 0.1)
    soundfile.write(file, np.repeat(wave[:, None], channels, 1), rate, format="FLAC")
    return file.getvalue()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("x.flac", "c", "train", "", 1.0, "route 66"), "characters that the vocabulary cannot write"),
        (("x.flac", "c", "train", "", 1.0, " ?! "), "empty text"),
        (("x.flac", "c", "train", "", 0.0, "yes"), "no sound (zero length)"),
        (("x.flac", "c", "train", "", "nan", "yes"), "no sound (zero length)"),
        (("x.flac", "c", "train", "", "long", "yes"), "a duration that is no number"),
        (("x.flac", "c", "train", "", 99.0, "yes"), "longer than 30 s"),
        (("x.flac", "c", "train", "", 0.1, "too many words"), "more text than the frames can hold"),
        (("x.flac", "c", "train", "", 9.0, "yes"), "a rate outside 2 to 25 characters a second"),
        (("gone.flac", "c", "train", "", 1.0, "yes"), "its sound is missing"),
        (("../x.flac", "c", "train", "", 1.0, "yes"), "its sound is missing"),
        (("good.flac", "c", "train", "", 1.0, "yes"), "listed before"),
        (("", "c", "train", "", 1.0, "yes"), "not a row with a file"),
    ],
)
def test_bad_row_is_counted(tmp_path: Path, row: tuple[object, ...], reason: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    for name in (folder / "x.flac", folder / "good.flac", tmp_path / "x.flac"):
        name.write_bytes(flac(1.0))
    path = write_table(folder / "m.tsv", [("good.flac", "c", "train", "", 1.0, "Yes!"), row])
    utterances, report = read_manifest(path, characters_per_s={"c": (2, 25)})
    assert [u.text for u in utterances] == ["yes"]
    assert dict(report.refused) == {reason: 1}
    assert "1 of 2 rows usable" in str(report)
    assert "line 3" in str(report)


def test_json_lines_tars_and_splits(tmp_path: Path) -> None:
    sound = flac(1.0)
    with tarfile.open(tmp_path / "box.tar", "w") as tar:
        for name in ("box/1.flac", "box/2.flac"):
            member = tarfile.TarInfo(name)
            member.size = len(sound)
            tar.addfile(member, io.BytesIO(sound))
    rows = [
        {"file": "box/1.flac", "text": "one", "split": "train"},
        {"file": "box/2.flac", "text": "two", "split": "dev"},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "{broken", "[1]"]), encoding="utf-8")
    utterances, report = read_manifest(path, splits=["train"])
    assert [(u.file, u.corpus, u.text) for u in utterances] == [("box/1.flac", "box", "one")]
    assert utterances[0].location.read() == sound
    assert report.other == 1
    assert report.refused["not a row with a file"] == 2
    assert set(SoundFinder(tmp_path).members("box")) == {"box/1.flac", "box/2.flac"}


def test_unusable_manifests_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the manifest"):
        read_manifest(tmp_path / "none.tsv")
    with pytest.raises(ConfigurationError, match="at least file, text"):
        read_manifest(write_table(tmp_path / "m.tsv", [], ("name", "text")))
    (tmp_path / "c.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(AudioError, match=r"c\.tar is no readable"):
        read_manifest(write_table(tmp_path / "m2.tsv", [("c/1.flac", "c", "train", "", 1.0, "yes")]))


def test_cache_decodes_any_rate_and_reports_what_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "stereo.flac").write_bytes(flac(0.5, 44100, 2))
    (tmp_path / "plain.flac").write_bytes(flac(0.5))
    (tmp_path / "broken.flac").write_bytes(flac(0.5)[:60])
    (tmp_path / "short.flac").write_bytes(flac(0.06))
    rows = [(f"{n}.flac", "c", "train", "", "", "yes") for n in ("stereo", "plain", "broken", "short")]
    utterances, report = read_manifest(write_table(tmp_path / "m.tsv", rows))
    sounds = {u.file: u.location for u in utterances}
    cache = build_cache(sounds, tmp_path / "cache", workers=0)
    assert cache.samples("stereo.flac") == cache.samples("plain.flac") == 8000
    expected, _ = soundfile.read(tmp_path / "plain.flac", dtype="float32")
    np.testing.assert_allclose(cache.wave("plain.flac"), expected, atol=1e-4)
    kept = usable(utterances, cache, report)
    assert [u.file for u in kept] == ["stereo.flac", "plain.flac"]
    assert report.refused == {"its sound cannot be decoded": 1, "more text than the frames can hold": 1}

    before = (tmp_path / "cache" / "audio.int16").stat().st_mtime_ns
    build_cache(sounds, tmp_path / "cache", workers=0)
    assert (tmp_path / "cache" / "audio.int16").stat().st_mtime_ns == before


def test_a_full_disk_leaves_the_former_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.flac", "y.flac"):
        (tmp_path / name).write_bytes(flac(0.5))
    finder = SoundFinder(tmp_path)
    sounds = {name: location for name in ("x.flac", "y.flac") if (location := finder.find(name)) is not None}
    build_cache({"x.flac": sounds["x.flac"]}, tmp_path / "cache", workers=0)
    before = sorted(path.name for path in (tmp_path / "cache").iterdir())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))  # a file cannot grow beyond it, as on a full disk
    try:
        with pytest.raises(AudioError, match="cannot write the cache of sound"):
            build_cache(sounds, tmp_path / "cache", workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, former)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == before
    assert SoundCache(tmp_path / "cache").keys() == ["x.flac"]
    assert sorted(build_cache(sounds, tmp_path / "cache", workers=0).keys()) == ["x.flac", "y.flac"]


def test_incomplete_cache_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.flac").write_bytes(flac(0.5))
    sounds = {"x.flac": SoundFinder(tmp_path).find("x.flac")}
    assert sounds["x.flac"] is not None
    build_cache({"x.flac": sounds["x.flac"]}, tmp_path / "cache", workers=0)
    with open(tmp_path / "cache" / "audio.int16", "ab") as f:
        f.write(b"12")
    with pytest.raises(AudioError, match="no complete cache"):
        SoundCache(tmp_path / "cache")
    (tmp_path / "x.flac").write_bytes(b"nothing")
    with pytest.raises(AudioError, match="none of 1 recordings"):
        build_cache({"x.flac": sounds["x.flac"]}, tmp_path / "other", workers=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don\u2019t  STOP\u2014now!", "don't stop now"),
        ("Caf\u00e9, 'quoted' ' na\u00efve", "cafe 'quoted' naive"),
        ("", ""),
    ],
)
def test_text_is_normalised(text: str, expected: str) -> None:
    assert normalise_text(text) == expected


def test_letters_there_and_back() -> None:
    text = "all's well"
    ids = encode(text)
    assert ids.max() < len(TOKENS)
    blanks = np.zeros(2 * len(ids) + 1, np.int64)
    blanks[1::2] = ids
    assert decode(np.repeat(blanks, 3)) == text
    assert decode(encode("aab")) == "ab"
    assert frames_needed(encode("all")) == 4
    assert fits("all", 400 + 3 * 320)
    assert not fits("all", 400 + 3 * 320 - 1)
    with pytest.raises(TextError, match="'5'"):
        encode("5")


def test_without_texts_nobody_looks_at_them(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(16000 if name != "c" else 300), 16000)
    rows = [("a.wav", "7 dogs", "happy"), ("b.wav", "", "sad"), ("c.wav", "x", ""), ("d.wav", "missing", "")]
    path = write_table(tmp_path / "m.tsv", rows, ("file", "text", "label"))
    utterances, report = read_manifest(path, texts=False)
    assert [(u.file, u.label) for u in utterances] == [("a.wav", "happy"), ("b.wav", "sad"), ("c.wav", "")]
    assert report.refused == {"its sound is missing": 1}
    assert len(read_manifest(path)[0]) == 1
    data, _, _ = load_data(path, tmp_path / "cache", splits=["train"], texts=False, workers=0)
    assert [u.file for u in data["train"]] == ["a.wav", "b.wav"]  # c is too short for a frame
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"file": "a.wav"}\n{"file": "b.wav"}\nnothing\n')
    assert len(read_manifest(bare, texts=False)[0]) == 2
    assert not read_manifest(bare)[0]


def test_two_manifests_may_not_name_two_recordings_alike(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "a.wav", np.zeros(16000), 16000)
        write_table(tmp_path / folder / "m.tsv", [("a.wav", "yes")], ("file", "text"))
    paths = [str(tmp_path / folder / "m.tsv") for folder in ("one", "two")]
    with pytest.raises(ConfigurationError, match="another manifest"):
        load_data(paths, tmp_path / "cache", splits=["train"], workers=0)
    data, _, _ = load_data([paths[0], paths[0]], tmp_path / "cache", splits=["train"], workers=0)
    assert len(data["train"]) == 2
