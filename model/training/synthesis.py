"""Synthetic English speech: sentences and word lists spoken by espeak-ng and flite with many voices.

Two programs that Debian carries speak: espeak-ng (formant synthesis: eight English accents, a hundred variants of
the voice, any speed and pitch; some 700 times faster than speech) and flite (four voices cut from recordings, some
86 times faster). What is spoken, by which voice, at which speed, follows from the seed and the item's number alone.

The result is a manifest (`utterances.tsv`) with one tar of FLAC files a corpus beside it: what `read_manifest`
reads, next to real speech or alone.
"""

from __future__ import annotations

import gzip
import io
import logging
import multiprocessing
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import AudioError, ConfigurationError, TextError
from .cache import RATE
from .letters import normalise_text
from .manifest import fits

log = logging.getLogger(__name__)

SENTENCES, WORDS = "synthetic_sentences", "synthetic_words"
COLUMNS = ("file", "corpus", "split", "speaker", "duration_s", "text")
FLITE_VOICES = ("awb", "rms", "slt", "kal16")
COMMANDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
    *("forward", "backward", "follow", "learn", "visual", "happy", "house", "bird", "dog", "cat", "tree", "bed", "wow"),
)
"""Words spoken alone where no list is given: the digits and the commonest command words."""
# Voices that do not sound like a person, or whisper: the letters are there, the sound of speech is not.
_ODD = re.compile(
    r"robo|robot|whisper|demonic|croak|announcer|klatt6|fast|tweaky|grandm|grandp|storm|^Mr$", re.IGNORECASE
)
# The voices read these as other words than are written.
_ABBREVIATIONS = "st mr mrs mme dr ms rev col gen capt lieut hon esq etc viz vs ft lb oz nos vol chap fig pp ed"
_ROMAN_NUMBERS = "ii iii iv vi vii viii ix xi xii xiii xiv xv"
_READ_OTHERWISE = frozenset(f"{_ABBREVIATIONS} {_ROMAN_NUMBERS}".split())


@dataclass(frozen=True)
class Voice:
    """How one item is spoken."""

    engine: str
    """"espeak-ng" or "flite"."""
    name: str
    """What the program calls the voice; for espeak-ng an accent and perhaps a variant, "en-us+f3"."""
    speed: float
    """Words a minute for espeak-ng (175 is usual); for flite the stretch of durations (1 is usual)."""
    pitch: float
    """0 to 99 for espeak-ng (50 is usual); for flite the mean in Hz."""

    def command(self, text: str) -> list[str]:
        """The program with its arguments; it writes a WAV to stdout."""
        if self.engine == "espeak-ng":
            speed, pitch = str(round(self.speed)), str(round(self.pitch))
            return ["espeak-ng", "-v", self.name, "-s", speed, "-p", pitch, "-z", "--stdout", "--", text]
        stretch, mean = f"duration_stretch={self.speed:.3f}", f"int_f0_target_mean={self.pitch:.1f}"
        return ["flite", "-voice", self.name, "--setf", stretch, "--setf", mean, "-t", text, "-o", "/dev/stdout"]


@dataclass(frozen=True)
class Job:
    """One item to be spoken: its name within the corpus, its text, and the numbers that seed its voice."""

    file: str
    text: str
    seed: tuple[int, ...]
    accents: tuple[str, ...]
    variants: tuple[str, ...]
    flite_share: float


def _listed(kind: str) -> list[str]:
    """Names to give to `-v`, from the table that `espeak-ng --voices=kind` prints."""
    output = subprocess.run(["espeak-ng", f"--voices={kind}"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in output.splitlines()[1:]]
    if kind == "variant":
        return sorted({row[4].removeprefix("!v/") for row in rows if len(row) > 4 and row[4].startswith("!v/")})
    return sorted({row[1] for row in rows if len(row) > 4 and row[4].startswith("gmw/")})


def find_voices() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Accents of English and variants of the voice that the installed espeak-ng has.

    Raises:
        ConfigurationError: espeak-ng is not installed, or knows no English.
    """
    if shutil.which("espeak-ng") is None:
        raise ConfigurationError("espeak-ng is not installed; on Debian: apt-get install espeak-ng flite")
    try:
        accents, variants = _listed("en"), [v for v in _listed("variant") if not _ODD.search(v) and " " not in v]
    except (OSError, subprocess.CalledProcessError) as e:
        raise ConfigurationError(f"espeak-ng cannot list its voices: {e}") from e
    if not accents:
        raise ConfigurationError("espeak-ng lists no English voice; install its data (espeak-ng-data)")
    return tuple(accents), tuple(variants)


def draw_voice(
    rng: np.random.Generator, accents: Sequence[str], variants: Sequence[str], flite_share: float = 0.0
) -> Voice:
    """A voice at random: accent, variant, 120 to 220 words a minute, pitch around its middle."""
    if rng.random() < flite_share:
        name = FLITE_VOICES[int(rng.integers(len(FLITE_VOICES)))]
        middle = {"slt": 180.0, "awb": 130.0, "rms": 105.0, "kal16": 110.0}[name]
        return Voice("flite", name, float(rng.uniform(0.8, 1.3)), middle * float(rng.uniform(0.85, 1.2)))
    accent = accents[int(rng.integers(len(accents)))]
    variant = variants[int(rng.integers(len(variants)))] if variants and rng.random() < 0.9 else ""
    name = f"{accent}+{variant}" if variant else accent
    return Voice("espeak-ng", name, float(rng.uniform(120.0, 220.0)), float(rng.uniform(25.0, 75.0)))


def trim(wave: np.ndarray, before: int, after: int, floor_db: float = -45.0) -> np.ndarray:
    """Cut silence at both ends down to at most `before` and `after` samples; silence is `floor_db` below the peak."""
    loud = np.flatnonzero(np.abs(wave) > np.abs(wave).max(initial=0.0) * 10.0 ** (floor_db / 20.0))
    if not len(loud):
        return wave[:0]
    return wave[max(0, int(loud[0]) - before) : int(loud[-1]) + 1 + after]


def speak(text: str, voice: Voice, timeout_s: float = 60.0) -> np.ndarray:
    """The text spoken: float32 [samples] at 16 kHz, silence at the ends as the program leaves it.

    Raises:
        AudioError: the program failed or said nothing.
    """
    import soundfile
    import soxr

    try:
        done = subprocess.run(voice.command(text), capture_output=True, timeout=timeout_s, check=True)
        # Written to a pipe, the header cannot say how long the sound is: the samples follow its 44 bytes.
        rate = int.from_bytes(done.stdout[24:28], "little")
        wave, _ = soundfile.read(
            io.BytesIO(done.stdout[44:]), dtype="float32", samplerate=rate, channels=1, format="RAW", subtype="PCM_16"
        )
    except (OSError, subprocess.SubprocessError, RuntimeError, TypeError, ValueError) as e:
        raise AudioError(f"{voice.engine} with the voice {voice.name} did not say {text[:60]!r}: {e}") from e
    if rate != RATE:
        wave = soxr.resample(wave, rate, RATE).astype(np.float32, copy=False)
    if not len(wave) or not np.abs(wave).max() > 1e-4:
        raise AudioError(f"{voice.engine} with the voice {voice.name} said nothing for {text[:60]!r}")
    return wave


def render(job: Job) -> tuple[Job, str, float, bytes]:
    """Speak one job: the job, the voice's name, seconds, and the FLAC. Nothing usable: 0 seconds and no bytes."""
    import soundfile

    rng = np.random.default_rng(job.seed)
    voice = draw_voice(rng, job.accents, job.variants, job.flite_share)
    edges = rng.integers(0, int(0.2 * RATE), 2)
    try:
        wave = trim(speak(job.text, voice), int(edges[0]), int(edges[1]))
    except AudioError:
        return job, voice.name, 0.0, b""
    if not fits(job.text, len(wave)):
        return job, voice.name, 0.0, b""
    sound = io.BytesIO()
    level = np.float32(0.7 / np.abs(wave).max())
    soundfile.write(sound, wave * level, RATE, format="FLAC", subtype="PCM_16")
    return job, f"{voice.engine}:{voice.name}", len(wave) / RATE, sound.getvalue()


def read_sentences(path: str | Path, words: tuple[int, int] = (3, 14)) -> list[str]:
    """Sentences of a text file (gzip or plain), one a line, normalised, within a range of words.

    Lines that the vocabulary cannot write, and lines with abbreviations or single letters that are read as
    something else, are left out.

    Raises:
        ConfigurationError: the file cannot be read, or holds no such sentence.
    """
    path = Path(path)
    found: dict[str, None] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as f:
            for line in f:
                try:
                    text = normalise_text(line)
                except TextError:
                    continue
                pieces = text.split()
                if words[0] <= len(pieces) <= words[1] and not any(
                    p in _READ_OTHERWISE or (len(p) == 1 and p not in "aio") for p in pieces
                ):
                    found[text] = None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"cannot read the sentences in {path}: {e}; expected UTF-8 text, one a line") from e
    if not found:
        raise ConfigurationError(f"{path} holds no sentence of {words[0]} to {words[1]} words that can be spoken")
    return list(found)


def _jobs(corpus: str, texts: Sequence[str], seed: int, flite_share: float) -> Iterator[Job]:
    """Endless: the texts in a random order, again and again, each time by another voice."""
    accents, variants = find_voices()
    flite_share = flite_share if shutil.which("flite") else 0.0
    number = round_ = 0
    salt = sum(corpus.encode())
    while True:
        order = np.random.default_rng([seed, salt, round_]).permutation(len(texts))
        for i in order:
            file = f"{corpus}/{number:07d}.flac"
            yield Job(file, texts[int(i)], (seed, salt, 7, number), accents, variants, flite_share)
            number += 1
        round_ += 1


def write_corpus(
    corpus: str, texts: Sequence[str], folder: Path, *, hours: float, seed: int, workers: int, flite_share: float
) -> list[dict[str, object]]:
    """Speak texts until there are `hours` of sound; write `<corpus>.tar` and return the manifest's rows.

    Raises:
        AudioError: nothing could be spoken, or the tar cannot be written.
    """
    rows: list[dict[str, object]] = []
    total_s, missed, jobs = 0.0, 0, _jobs(corpus, texts, seed, flite_share)
    part = folder / f"{corpus}.tar.part"
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) if workers else None
    try:
        with tarfile.open(part, "w") as tar:
            while total_s < 3600.0 * hours:
                left_s = 3600.0 * hours - total_s
                batch = [next(jobs) for _ in range(int(np.clip(left_s / 3.0, 4, 256)))]
                done = pool.map(render, batch, chunksize=16) if pool else map(render, batch)
                for job, voice, seconds, sound in done:
                    if not sound:
                        missed += 1
                    elif total_s < 3600.0 * hours:
                        member = tarfile.TarInfo(job.file)
                        member.size = len(sound)
                        tar.addfile(member, io.BytesIO(sound))
                        values = (job.file, corpus, "train", voice, round(seconds, 3), job.text)
                        rows.append(dict(zip(COLUMNS, values, strict=True)))
                        total_s += seconds
                if not rows:
                    raise AudioError(f"none of the first {missed} texts of {corpus} could be spoken; try espeak-ng")
                log.info("%s: %.2f of %.2f h, %d items, %d left out", corpus, total_s / 3600, hours, len(rows), missed)
        part.replace(folder / f"{corpus}.tar")
    except OSError as e:
        part.unlink(missing_ok=True)
        raise AudioError(f"cannot write {folder / corpus}.tar: {e}; free some space") from e
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return rows


def synthesise(
    folder: str | Path,
    sentences: str | Path,
    *,
    hours: float,
    word_hours: float,
    words: Sequence[str] = COMMANDS,
    sentence_words: tuple[int, int] = (3, 14),
    seed: int = 1,
    workers: int = 2,
    flite_share: float = 0.1,
) -> Path:
    """Make a synthetic corpus: sentences, and words said alone.

    Args:
        folder: made if missing; holds the manifest and the tars afterwards.
        sentences: text file, see `read_sentences`.
        hours: sound of the corpus `synthetic_sentences`.
        word_hours: sound of the corpus `synthetic_words`.
        words: what is said alone.
        sentence_words: fewest and most words in a sentence.
        seed: decides everything.
        workers: processes; 0 works in this one.
        flite_share: share of items that flite speaks where it is installed.

    Returns:
        The manifest.

    Raises:
        ConfigurationError: no espeak-ng, unreadable sentences, or nothing asked for.
        AudioError: nothing could be spoken or written.
    """
    if not (hours > 0 or word_hours > 0) or min(hours, word_hours) < 0:
        raise ConfigurationError(f"{hours} h of sentences and {word_hours} h of words were asked for; expected above 0")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise AudioError(f"cannot make the folder {folder}: {e.strerror}") from e
    rows: list[dict[str, object]] = []
    for corpus, length in ((WORDS, word_hours), (SENTENCES, hours)):
        if length:
            texts = read_sentences(sentences, sentence_words) if corpus == SENTENCES else list(words)
            rows += write_corpus(
                corpus, texts, folder, hours=length, seed=seed, workers=workers, flite_share=flite_share
            )
    lines = ["\t".join(COLUMNS), *("\t".join(str(row[name]) for name in COLUMNS) for row in rows)]
    manifest = folder / "utterances.tsv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest
