"""The command `wavlm-live`. What costs time to import is imported by the command that needs it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated

import typer

from ..model.errors import OutputError, WavLMLiveError
from . import (
    classify_command,
    decoding_options,
    model_commands,
    network_commands,
    options,
    speaker_options,
    voice_options,
    watch_command,
)
from .decoding_options import Decoding
from .interrupts import Interrupted, Interruption
from .options import Listening, UsageError
from .speaker_options import Speakers
from .terminal import Terminal, TerminalLog
from .voice_options import Detector, Pauses

PROGRAM = "wavlm-live"
_EPILOG = (
    "Every option can be set in the environment: WAVLM_LIVE_MODEL, WAVLM_LIVE_DEVICE, and so on. "
    "Exit codes: 0 done, 1 something failed, 2 usage, 130 ended by Ctrl+C."
)

app = typer.Typer(
    name=PROGRAM,
    help="Live speech to text on a streaming WavLM: from the microphone, files or a pipe.",
    epilog=_EPILOG,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors of ours are one sentence on stderr."""
    log = logging.getLogger("wavlm_live")
    handlers, level, propagate = log.handlers, log.level, log.propagate
    try:
        with warnings.catch_warnings():
            code = _run(sys.argv[1:] if arguments is None else list(arguments))
    finally:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
    return _settle_stdout(code)


def _run(arguments: list[str]) -> int:
    try:
        result = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except UsageError as error:
        _complain(error)
        return 2
    except WavLMLiveError as error:
        _complain(error)
        return 1
    except BrokenPipeError:
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SystemExit as end:  # argparse inside `train`, and typer when a pipe is closed
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except OSError as error:  # such as a full disk behind stdout, met while the help is written
        _complain(OutputError(f"writing failed: {error.strerror or error}"))
        return 1
    except Exception as error:
        # wrong options; the classes of these errors are typer's or click's, depending on the version
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        context = getattr(error, "ctx", None)
        if context is not None and context.command_path != PROGRAM:
            sys.stderr.write(f"{context.get_usage()}\n")
        if message := error.format_message():  # type: ignore[attr-defined]
            Terminal().error(message)
        return error.exit_code  # type: ignore[attr-defined]
    return result if isinstance(result, int) else 0


def _complain(error: Exception) -> None:
    if logging.getLogger("wavlm_live").isEnabledFor(logging.DEBUG):
        traceback.print_exception(error)
    Terminal().error(str(error))


def _settle_stdout(code: int) -> int:
    """Write out what still waits; a failure here would otherwise be told by a traceback when Python ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = code or 1
    except (OSError, ValueError) as error:
        if code == 0:
            Terminal(out=sys.stderr).error(f"standard output cannot be written: {getattr(error, 'strerror', error)}")
        code = code or 1
    else:
        return code
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no real stdout, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # type: ignore[union-attr]
    return code


def _terminal(plain: bool = False, quiet: bool = False, verbose: bool = False) -> Terminal:
    """The terminal of a command, with the packages' log on its stderr."""
    terminal = Terminal(plain=plain, quiet=quiet)
    log = logging.getLogger("wavlm_live")
    log.handlers = [TerminalLog(terminal)]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)
    if not verbose:
        warnings.simplefilter("ignore")
    return terminal


def _with_signals(work: Callable[[Interruption], int]) -> int:
    with Interruption() as interruption:
        try:
            return work(interruption)
        except Interrupted:
            return interruption.exit_code


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {metadata.version(PROGRAM)}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def transcribe(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Recordings of any format; - is raw s16le 16 kHz mono on stdin."),
    ],
    model: options.Model = None,
    device: options.Device = "auto",
    format: options.FormatOption = None,
    output: options.Output = None,
    realtime: options.Realtime = False,
    channel: options.Channel = None,
    context: options.Context = None,
    left_ms: options.LeftMs = None,
    chunk_ms: options.ChunkMs = None,
    right_ms: options.RightMs = None,
    silence_ms: options.SilenceMs = 800,
    max_segment_s: options.MaxSegmentS = 20.0,
    min_segment_s: voice_options.MinSegmentS = 0.0,
    no_speech_ms: voice_options.NoSpeechMs = 5000,
    blank_ms: voice_options.BlankMs = 2000,
    pause_by_voice: voice_options.ByVoice = True,
    voice_detector: voice_options.VoiceDetector = Detector.silero,
    voice_start: voice_options.VoiceStart = 0.5,
    voice_stay: voice_options.VoiceStay = 0.35,
    min_speech_ms: voice_options.MinSpeechMs = 100,
    min_silence_ms: voice_options.MinSilenceMs = 400,
    voice_padding_ms: voice_options.VoicePaddingMs = 60,
    words_need_voice: voice_options.WordsNeedVoice = None,
    word_padding_ms: voice_options.WordPaddingMs = 200,
    activity: voice_options.Activity = False,
    sleep_after_s: voice_options.SleepAfterS = 0.0,
    speakers: speaker_options.Label = False,
    known_speakers: speaker_options.KnownSpeakers = None,
    most_speakers: speaker_options.MostSpeakers = 8,
    new_speaker_below: speaker_options.NewSpeakerBelow = None,
    known_above: speaker_options.KnownAbove = None,
    partial_hop_ms: options.PartialHopMs = 100,
    partials: options.Partials = False,
    beam: decoding_options.Beam = None,
    lm: decoding_options.Lm = None,
    lm_weight: decoding_options.LmWeight = None,
    word_score: decoding_options.WordScore = None,
    unknown_penalty: decoding_options.UnknownPenalty = None,
    prior_weight: decoding_options.PriorWeight = None,
    hotword: decoding_options.Hotword = None,
    stability: decoding_options.Stability = 0.5,
    looks: decoding_options.Looks = 2,
    details: decoding_options.Details = False,
    token_cutoff: decoding_options.TokenCutoff = None,
    beam_cutoff: decoding_options.BeamCutoff = None,
    blank_skip: decoding_options.BlankSkip = 0.99,
    carry_context: decoding_options.CarryContext = False,
    confidence_temperature: decoding_options.ConfidenceTemperature = None,
    confidence_scale: decoding_options.ConfidenceScale = None,
    confidence_shift: decoding_options.ConfidenceShift = None,
    confidence_letters: decoding_options.ConfidenceLetters = None,
    threads: options.Threads = None,
    plain: options.Plain = False,
    plot: options.Plot = None,
    no_progress: options.NoProgress = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Write down recordings, as fast as the machine goes or at the pace of speech.

    Several recordings with --output FOLDER give one file each.
    """
    pauses, decoding, who = Pauses.among(locals()), Decoding.among(locals()), Speakers.among(locals())
    from .transcribe import Request
    from .transcribe import transcribe as run

    terminal = _terminal(plain, quiet, verbose)
    hop_ms = partial_hop_ms if realtime else 0  # nobody watches the partials of a recording at full speed
    listening = Listening(decoding, model, device, threads, context, left_ms, chunk_ms, right_ms, pauses, hop_ms, who)
    request = Request(files, output, _name(format), channel, realtime, partials, not no_progress, plot)
    return _with_signals(lambda i: run(request, listening.loader(terminal, i), terminal, i))


@app.command()
def listen(
    input_device: options.InputDevice = None,
    model: options.Model = None,
    device: options.Device = "auto",
    format: options.FormatOption = None,
    output: options.Output = None,
    channel: options.Channel = None,
    context: options.Context = None,
    left_ms: options.LeftMs = None,
    chunk_ms: options.ChunkMs = None,
    right_ms: options.RightMs = None,
    silence_ms: options.SilenceMs = 800,
    max_segment_s: options.MaxSegmentS = 20.0,
    min_segment_s: voice_options.MinSegmentS = 0.0,
    no_speech_ms: voice_options.NoSpeechMs = 5000,
    blank_ms: voice_options.BlankMs = 2000,
    pause_by_voice: voice_options.ByVoice = True,
    voice_detector: voice_options.VoiceDetector = Detector.silero,
    voice_start: voice_options.VoiceStart = 0.5,
    voice_stay: voice_options.VoiceStay = 0.35,
    min_speech_ms: voice_options.MinSpeechMs = 100,
    min_silence_ms: voice_options.MinSilenceMs = 400,
    voice_padding_ms: voice_options.VoicePaddingMs = 60,
    words_need_voice: voice_options.WordsNeedVoice = None,
    word_padding_ms: voice_options.WordPaddingMs = 200,
    activity: voice_options.Activity = False,
    sleep_after_s: voice_options.SleepAfterS = 0.0,
    speakers: speaker_options.Label = False,
    known_speakers: speaker_options.KnownSpeakers = None,
    most_speakers: speaker_options.MostSpeakers = 8,
    new_speaker_below: speaker_options.NewSpeakerBelow = None,
    known_above: speaker_options.KnownAbove = None,
    partial_hop_ms: options.PartialHopMs = 100,
    partials: options.Partials = False,
    beam: decoding_options.Beam = None,
    lm: decoding_options.Lm = None,
    lm_weight: decoding_options.LmWeight = None,
    word_score: decoding_options.WordScore = None,
    unknown_penalty: decoding_options.UnknownPenalty = None,
    prior_weight: decoding_options.PriorWeight = None,
    hotword: decoding_options.Hotword = None,
    stability: decoding_options.Stability = 0.5,
    looks: decoding_options.Looks = 2,
    details: decoding_options.Details = False,
    token_cutoff: decoding_options.TokenCutoff = None,
    beam_cutoff: decoding_options.BeamCutoff = None,
    blank_skip: decoding_options.BlankSkip = 0.99,
    carry_context: decoding_options.CarryContext = False,
    confidence_temperature: decoding_options.ConfidenceTemperature = None,
    confidence_scale: decoding_options.ConfidenceScale = None,
    confidence_shift: decoding_options.ConfidenceShift = None,
    confidence_letters: decoding_options.ConfidenceLetters = None,
    threads: options.Threads = None,
    plain: options.Plain = False,
    no_progress: options.NoProgress = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Write down what is said into the microphone, live, until Ctrl+C."""
    pauses, decoding, who = Pauses.among(locals()), Decoding.among(locals()), Speakers.among(locals())
    from .listen import Request
    from .listen import listen as run

    terminal = _terminal(plain, quiet, verbose)
    hop_ms = partial_hop_ms
    listening = Listening(decoding, model, device, threads, context, left_ms, chunk_ms, right_ms, pauses, hop_ms, who)
    request = Request(input_device, output, _name(format), channel, partials, not no_progress)
    return _with_signals(lambda i: run(request, listening.loader(terminal, i), terminal, i))


def _name(format: options.Format | None) -> str | None:
    return None if format is None else format.value


@app.command()
def devices() -> int:
    """List the microphones."""
    from .reports import show_devices

    return show_devices(_terminal())


@app.command()
def doctor(
    model: options.Model = None,
    device: options.Device = "auto",
    plain: options.Plain = False,
    verbose: options.Verbose = False,
) -> int:
    """Say what is there, what is missing and what to install, and try the model out."""
    from .reports import show_doctor

    return show_doctor(_terminal(plain, verbose=verbose), model, device)


model_commands.register(app, _terminal)
network_commands.register(app, _terminal, _with_signals)
watch_command.register(app, _terminal, _with_signals)
speaker_options.register(app, _terminal, _with_signals)
classify_command.register(app, _terminal, _with_signals)

if __name__ == "__main__":
    sys.exit(main())
