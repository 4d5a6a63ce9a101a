// Transcripts as files. Finals: {lane, text, start, end, words, speaker, reason}, times in samples.

import { RATE } from "./rings.js";

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

// Words as captions of at most two lines: [{start, end, lines}].
export function captions(final) {
  const found = [];
  let current = null;
  for (const word of final.words) {
    const last = current?.lines.at(-1);
    const long = current && word.end - current.start > LONGEST_S * RATE;
    if (current && !long && last.length + 1 + word.text.length <= LINE) {
      current.lines[current.lines.length - 1] = `${last} ${word.text}`;
    } else if (current && !long && current.lines.length < LINES) {
      current.lines.push(word.text);
    } else {
      current = { start: word.start, end: word.end, lines: [word.text] };
      found.push(current);
    }
    current.end = Math.max(current.end, word.end);
  }
  return found;
}

// Text of a caption file must not be taken for its marks.
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function withSpeaker(final, lines) {
  return final.speaker ? [`${final.speaker}: ${lines[0]}`, ...lines.slice(1)] : lines;
}

function txt(finals, several) {
  return finals
    .map((final) => `[${timestamp(final.start, ".").slice(0, 8)}] ${several ? `${final.lane}: ` : ""}${withSpeaker(final, [final.text])[0]}\n`)
    .join("");
}

function srt(finals) {
  const cues = finals.flatMap((final) => captions(final).map((cue) => ({ ...cue, lines: withSpeaker(final, cue.lines) })));
  return cues.map((cue, n) => `${n + 1}\n${timestamp(cue.start, ",")} --> ${timestamp(cue.end, ",")}\n${cue.lines.join("\n")}\n\n`).join("");
}

function vtt(finals) {
  const cues = finals.flatMap((final) =>
    captions(final).map((cue) => {
      const voice = final.speaker ? `<v ${escaped(final.speaker).replaceAll("\n", " ")}>` : "";
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
    speaker: final.speaker,
    words: final.words.map((word) => ({
      text: word.text,
      start_s: seconds(word.start),
      end_s: seconds(word.end),
      confidence: word.confidence,
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
