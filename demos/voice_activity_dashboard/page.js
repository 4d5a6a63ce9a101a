// A lane in a page of one's own: a source of sound, the lane, its panel, and a clock that draws it.

import { Lane, address } from "/web/lane.js";
import { LanePanel } from "/web/lane_panel.js";
import { Microphone } from "/web/sources.js";

const now = document.querySelector("#now");
let panel = null;

document.querySelector("#start").addEventListener("click", () => {
  panel?.close();
  const lane = new Lane({
    source: new Microphone(),
    url: address("/v1/stream"), // or wss://speech.example/v1/stream, if that server was told --allow-origin of this page
    key: "", // better: a ticket that this page's own server got from POST /v1/tickets
    settings: { activity: true, speech: { start_probability: 0.6, stay_probability: 0.4 } },
  });
  panel = new LanePanel(lane, { seconds: 8 });
  document.querySelector("#here").append(panel.root);
  lane.addEventListener("final", ({ detail }) => {
    document.title = detail.text; // {text, start, end, words, reason, speaker}, times in samples
  });
  lane.start();
});

// One's own use of the voice activity: is somebody speaking at this moment?
function frame(time) {
  panel?.frame(time);
  const last = panel?.lane.timeline.speech.at(-1);
  const text = last && last.end === null ? "somebody speaks" : "silence";
  if (panel && now.textContent !== text) now.textContent = text;
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
