#!/usr/bin/env bash
# Trains both voice heads of an encoder and writes them beside it, or into another folder; some minutes of one core.
#
#     benchmarks/train_heads.sh ENCODER SPEECH [OUT]
#
# ENCODER: folder of a model, or "english" for the bundled one. SPEECH: folder with utterances.tsv. OUT: where heads.json and
# heads.safetensors go (default: ENCODER). CACHE: folder of the decoded sound (default: a temporary one).
set -euo pipefail
encoder=$1 speech=$2 out=${3:-$1}
cache=${CACHE:-}
if [ -z "$cache" ]; then
    cache=$(mktemp -d)
    trap 'rm -rf "$cache"' EXIT
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python -m wavlm_live.model.training voices --model "$encoder" --manifest "$speech/utterances.tsv" --cache "$cache" --out "$out"
