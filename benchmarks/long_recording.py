"""Does a ten-minute recording fit? Peak memory of the whole-utterance forward of base, beside transformers.

    python benchmarks/long_recording.py [--minutes 1 10] [--peer-minutes 1]

Each measurement runs in a process of its own, since a peak cannot be taken back.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from machine import write

ONE = """
import json, resource, sys, time, warnings
import torch
warnings.filterwarnings("ignore")
side, minutes = sys.argv[1], float(sys.argv[2])
torch.set_num_threads(2)
samples = torch.randn(1, int(minutes * 60 * 16000)) * 0.05
if side == "ours":
    from wavlm_live.model import WavLMConfig, WavLMModel
    model = WavLMModel(WavLMConfig()).eval()
else:
    from transformers import WavLMConfig, WavLMModel
    model = WavLMModel(WavLMConfig()).eval()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
with torch.no_grad():
    frames = model(samples).last_hidden_state.shape[1]
print(json.dumps({
    "side": side, "minutes": minutes, "frames": frames, "seconds": round(time.perf_counter() - start, 1),
    "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    "before_mb": round(before / 1024),
}))
"""


def one(side: str, minutes: float) -> dict[str, object]:
    """One forward in a fresh process."""
    done = subprocess.run([sys.executable, "-c", ONE, side, str(minutes)], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"ended with code {done.returncode}, out of memory?"]
        return {"side": side, "minutes": minutes, "failed": reason[0]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--peer-minutes", type=float, nargs="*", default=[1])
    options = parser.parse_args()
    rows = []
    for side, minutes in [("ours", m) for m in options.minutes] + [("transformers", m) for m in options.peer_minutes]:
        rows.append(one(side, minutes))
        print(rows[-1], flush=True)
    write("long_recording", {"rows": rows})


if __name__ == "__main__":
    main()
