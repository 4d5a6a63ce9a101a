#!/usr/bin/env bash
# Makes an edition of the English model in one unattended run, on one GPU: synthetic speech, training, a folder, figures.
#
#     bash benchmarks/train_english.sh SPEECH_FOLDER SENTENCES_FILE OUT_FOLDER [RECIPE] [MINUTES] [DEVICE]
#     bash benchmarks/train_english.sh speech - out bundled_gpu_short 8     # ten minutes of a GPU, real speech alone
#
# SENTENCES_FILE "-": no synthetic speech (a recipe that names none). The phones of the real recordings' frames, which both
# recipes learn beside the letters, are found by pocketsphinx first (`pip install 'wavlm-live[align]'`); LABELS=FILE names
# labels that are there, LABELS=- is for a recipe without `frames`. START=MODEL goes on from a model's weights instead of
# from nothing. EVALUATE=0 leaves the figures of the test split for later; the last lines of the script make them.
# Started again it goes on: what is there is not made again, training resumes from its last checkpoint.
set -euo pipefail
speech=$1 sentences=$2 out=$3 recipe=${4:-bundled_gpu} minutes=${5:-45} device=${6:-cuda}
train() { python -m wavlm_live.model.training "$@"; }
mkdir -p "$out"

manifests=("$speech/utterances.tsv")
if [ "$sentences" != - ]; then
    [ -f "$out/synthetic/utterances.tsv" ] || train synthesize --sentences "$sentences" --hours "${HOURS:-100}" \
        --word-hours "${WORD_HOURS:-2}" --out "$out/synthetic" --workers "$(nproc)"
    manifests+=("$out/synthetic/utterances.tsv")
fi

labels=()
if [ "${LABELS:=$out/phones.npz}" != - ]; then
    [ -f "$LABELS" ] || train align --manifest "$speech/utterances.tsv" --cache "$out/cache" --out "$LABELS" --workers "$(nproc)"
    labels=(--frame-labels "$LABELS")
fi

start=()
[ -z "${START:-}" ] || start=(--start "$START")
train ctc --manifest "${manifests[@]}" --recipe "$recipe" --minutes "$minutes" "${start[@]}" "${labels[@]}" --device "$device" \
    --cache "$out/cache" --out "$out/run" --resume

# the best on the dev split
best=$out/run/best.pt
[ -f "$best" ] || best=$out/run/last.pt
train export "$best" --out "$out/english"
[ "${EVALUATE:-1}" = 1 ] || exit 0
train evaluate "$best" --manifest "$speech/utterances.tsv" --cache "$out/cache-test" --split test --device "$device" \
    --chunks 8 16 32 48 --right 0 8 --context full --json "$out/test.json" --plot "$out/test.png"
