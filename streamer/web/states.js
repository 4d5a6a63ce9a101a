// Every state of a lane in words: what is the matter, and what to do about it.

// tone: "good", "busy", "idle" or "bad"; it chooses a colour and a sign, never the colour alone.
const state = (tone, label, advice = "") => ({ tone, label, advice });

const SOURCES = {
  denied: state(
    "bad",
    "Microphone not allowed",
    "The browser was told not to let this page hear. Click the sign beside the address, allow the microphone, then start again.",
  ),
  no_microphone: state(
    "bad",
    "No microphone found",
    "Plug one in, or choose another one in the settings, then start again. A recording can be heard without one: open a file.",
  ),
  busy: state("bad", "Microphone in use", "Another program keeps the microphone to itself. Close that program, then start again."),
  unplugged: state("bad", "Microphone gone", "It was unplugged or switched off. Connect it and start again; what was said until then is in the transcript."),
  insecure: state(
    "bad",
    "Microphone needs https",
    "Browsers give the microphone only to pages from https or from this machine. Open the page as http://localhost, or set up TLS on the server.",
  ),
  bad_file: state("bad", "Not a recording", "The browser cannot decode this file. Try WAV, FLAC, MP3, Ogg or M4A, or give it to: wavlm-live transcribe FILE"),
  long_file: state("bad", "Recording too long", "The page takes recordings up to two hours. For longer ones use: wavlm-live transcribe FILE"),
};

const CONNECTION = {
  idle: state("idle", "Not started"),
  loading: state("busy", "Reading the file"),
  asking: state("busy", "Waiting for the microphone", "Answer the browser's question to let this page hear."),
  connecting: state("busy", "Connecting"),
  live: state("good", "Listening"),
  playing: state("good", "Playing"),
  paused: state("idle", "Paused"),
  watching: state("good", "Watching"),
  finishing: state("busy", "Finishing the last words"),
  ended: state("idle", "Ended"),
};

function seconds(wait) {
  const whole = Math.max(1, Math.round(wait));
  return whole === 1 ? "1 second" : `${whole} seconds`;
}

// What to say of a state of a connection or a source.
//   name: "live", "full", "refused", "denied", ...
//   details: {problem: {code, message}, wait} where there are any
export function describe(name, details = {}) {
  const { problem = {}, wait = 0, close = 0 } = details;
  const said = problem.message ? ` The server says: ${problem.message}` : "";
  switch (name) {
    case "unreachable":
      return state("bad", "No server", `Nobody answers. Is "wavlm-live serve" running, and is the address right? Next try in ${seconds(wait)}.`);
    case "broken":
      return state("busy", "Reconnecting", `The connection broke. Sound is kept meanwhile, nothing is lost. Next try in ${seconds(wait)}.`);
    case "full":
      return state("bad", "Server full", `All places are taken. Next try in ${seconds(wait)}; or end another session.`);
    case "refused":
      return refused(problem, close, said);
    default:
      return SOURCES[name] ?? CONNECTION[name] ?? state("idle", name);
  }
}

const KEY_CODES = ["unauthorized", "unauthorised", "bad_key", "no_key", "forbidden", "not_authorized"];

function refused(problem, close, said) {
  if (KEY_CODES.includes(problem.code) || (close === 1008 && /\bkey\b/i.test(problem.message ?? ""))) {
    return state("bad", "Key not accepted", "Enter the API key that the server's operator gave you in the settings, then start again.");
  }
  if (problem.code === "bad_settings") {
    return state("bad", "Settings not accepted", `Change them, then start again.${said}`);
  }
  if (problem.code === "unknown_model") {
    return state("bad", "Model not offered", `Reload this page and choose one in the settings.${said}`);
  }
  return state("bad", "Server refused", `Start again; if that does not help, tell the server's operator.${said}`);
}

export const SIGNS = { good: "●", busy: "◐", idle: "○", bad: "▲" };
