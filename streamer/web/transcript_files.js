// Transcripts as files. Finals: {lane, text, start, end, words, reason}, times in samples; words: {text, start, end,
// confidence, speaker}.

import { RATE } from "./rings.js";
import { turns } from "./turns.js";

const LINE = 42; // characters of a caption's line
const LINES = 2;
const LONGEST_S = 7; // of a caption

const pad = (value, digits) => String(value).padStart(digits, "0");

// 00:00:01,000 for srt, 00:00:01.000 for vtt
export function timestamp(sample, mark) {
  const ms = Math.round((sample / RATE) * 1000);
  const s = Math.floor(ms / 1000);
  return `${pad(Math.floor(s / 3600), 2)}:${pad(Math.floor(s / 60) % 60, 2)}:${pad(s % 60, 2)}${mark}${pad(ms % 1000, 3)}`;
}

// Words as captions of at most two lines, each of one speaker: [{start, end, lines, speaker}].
export function captions(final) {
  return turns(final.words).flatMap((turn) => captionsOf(turn));
}

function captionsOf({ words, speaker }) {
  const found = [];
  let current = null;
  for (const word of words) {
    const last = current?.lines.at(-1);
    const long = current && word.end - current.start > LONGEST_S * RATE;
    if (current && !long && last.length + 1 + word.text.length <= LINE) {
      current.lines[current.lines.length - 1] = `${last} ${word.text}`;
    } else if (current && !long && current.lines.length < LINES) {
      current.lines.push(word.text);
    } else {
      current = { start: word.start, end: word.end, lines: [word.text], speaker };
      found.push(current);
    }
    current.end = Math.max(current.end, word.end);
  }
  return found;
}

// Text of a caption file must not be taken for its marks.
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const named = (speaker, text) => (speaker ? `${speaker}: ${text}` : text);

function txt(finals, several) {
  const lines = (final) => {
    if (!final.speakers?.length) return [final.text];
    return turns(final.words).map((turn) => named(turn.speaker, turn.words.map((word) => word.text).join(" ")));
  };
  return finals
    .flatMap((final) => lines(final).map((line) => `[${timestamp(final.start, ".").slice(0, 8)}] ${several ? `${final.lane}: ` : ""}${line}\n`))
    .join("");
}

function srt(finals) {
  const cues = finals.flatMap(captions);
  const text = ({ lines, speaker }) => [named(speaker, lines[0]), ...lines.slice(1)].join("\n");
  return cues.map((cue, n) => `${n + 1}\n${timestamp(cue.start, ",")} --> ${timestamp(cue.end, ",")}\n${text(cue)}\n\n`).join("");
}

function vtt(finals) {
  const cues = finals.flatMap((final) =>
    captions(final).map((cue) => {
      const voice = cue.speaker ? `<v ${escaped(cue.speaker).replaceAll("\n", " ")}>` : "";
      return `${timestamp(cue.start, ".")} --> ${timestamp(cue.end, ".")}\n${voice}${cue.lines.map(escaped).join("\n")}\n\n`;
    }),
  );
  return `WEBVTT\n\n${cues.join("")}`;
}

function json(finals) {
  const seconds = (sample) => sample / RATE;
  const segments = finals.map((final) => ({
    source: final.lane,
    start_s: seconds(final.start),
    end_s: seconds(final.end),
    text: final.text,
    reason: final.reason,
    words: final.words.map((word) => ({
      text: word.text,
      start_s: seconds(word.start),
      end_s: seconds(word.end),
      confidence: word.confidence,
      ...(word.speaker ? { speaker: word.speaker } : {}),
    })),
  }));
  return `${JSON.stringify({ text: finals.map((final) => final.text).join(" "), segments }, null, 1)}\n`;
}

export const FORMATS = {
  txt: { type: "text/plain", write: txt },
  srt: { type: "application/x-subrip", write: srt },
  vtt: { type: "text/vtt", write: vtt },
  json: { type: "application/json", write: json },
};

// The file's text. Finals of several lanes are put in the order given.
export function transcriptFile(format, finals) {
  const several = new Set(finals.map((final) => final.lane)).size > 1;
  return FORMATS[format].write(finals, several);
}
