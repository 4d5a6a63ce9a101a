#!/usr/bin/env bash
# Measures anew all that depends on the weights of the bundled model, and fills the tables of README and docs.
#
#     bash benchmarks/measure_model.sh SPEECH NOISE [CACHE]
#
# SPEECH: folder with utterances.tsv and its recordings; NOISE: tar of recordings in which nobody speaks; CACHE: folder
# for decoded sound and the model's outputs, which most steps share (default: a temporary one). Outputs are kept by the
# digest of the weights, so a step that is repeated costs little. decoding.json beside the weights is written first: the
# numbers of decoding are chosen on dev, and all figures are of test. Times are of one core of an AMD EPYC.
set -euo pipefail
speech=$1 noise=$2 cache=${3:-}
if [ -z "$cache" ]; then
    cache=$(mktemp -d)
    trap 'rm -rf "$cache"' EXIT
fi
here=$(dirname "$0")
python=${PYTHON:-python}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
step() {
    local TIMEFORMAT="measure_model: $1: %U s of processor, %R s in all"
    time "$python" "$here/$1.py" "${@:2}"
}
heard=(--manifest "$speech/utterances.tsv" --cache "$cache" --threads "$OMP_NUM_THREADS")

step speech_logits "${heard[@]}" --split dev --contexts "640+160 ms"
step speech_logits "${heard[@]}" --split test
step decoding_errors "${heard[@]}" --tune
step word_errors "${heard[@]}"
step word_times "${heard[@]}"
step stability "${heard[@]}" --every 40 --chunks "160 ms" "320 ms" "640+160 ms" "960 ms"
step noise --noise "$noise" --threads "$OMP_NUM_THREADS"
step noise --noise "$noise" --threads "$OMP_NUM_THREADS" --whole
step words_by_voice --manifest "$speech/utterances.tsv" --every 6 --threads "$OMP_NUM_THREADS"
step voice_detection --manifest "$speech/utterances.tsv" --noise "$noise" --utterances 24 --noise-minutes 4 --split test \
    --threads "$OMP_NUM_THREADS"
step decoding_cost --lm english --rounds 3 --streams 1 8 64
step tables --write
