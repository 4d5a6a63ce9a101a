// Lets a word or a sentence be heard again, from the sound that the page has kept.

import { RATE } from "./rings.js";

const BEFORE = 0.08 * RATE; // a little more than the word: its edges are the model's guess
const AFTER = 0.12 * RATE;
const FADE_S = 0.01;

let context = null;
let playing = null;

// Plays samples `start` to `end` of a ring. False where they are not kept any more.
export function hear(sound, start, end) {
  const from = Math.max(0, Math.round(start - BEFORE));
  if (from < sound.oldest) return false;
  const samples = sound.read(from, Math.round(end + AFTER));
  if (!samples.length) return false;
  context ??= new AudioContext({ sampleRate: RATE });
  context.resume();
  playing?.stop();
  const buffer = context.createBuffer(1, samples.length, RATE);
  const channel = buffer.getChannelData(0);
  for (let n = 0; n < channel.length; n += 1) channel[n] = samples[n] / 32768;
  const gain = context.createGain();
  const now = context.currentTime;
  const seconds = samples.length / RATE;
  gain.gain.setValueAtTime(0, now);
  gain.gain.linearRampToValueAtTime(1, now + FADE_S);
  gain.gain.setValueAtTime(1, Math.max(now + FADE_S, now + seconds - FADE_S));
  gain.gain.linearRampToValueAtTime(0, now + seconds);
  playing = context.createBufferSource();
  playing.buffer = buffer;
  playing.connect(gain).connect(context.destination);
  playing.start();
  return true;
}
