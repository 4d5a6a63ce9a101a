#!/usr/bin/env bash
# Everything that needs a GPU, in one unattended call; each part ends by itself after at most 10 minutes.
#
#     bash benchmarks/gpu_all.sh [FOLDER]
#
# FOLDER (default gpu_results) takes the log of each part, summary.tsv (part, exit status, seconds) and the JSON results that
# the benchmarks wrote. An exit status of 124 is a part that ran out of time; later parts run all the same. Needs a CUDA
# build of torch with its triton, and the packages of the extra `test`. PYTHON=... names the interpreter.
set -u
cd "$(dirname "$0")/.."
into="${1:-gpu_results}"
mkdir -p "$into"
into="$(cd "$into" && pwd)"
python="${PYTHON:-python}"
"$python" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device here"; print(torch.cuda.get_device_name())' || exit 2
nvidia-smi > "$into/nvidia-smi.txt" 2>&1
"$python" -m wavlm_live.streamer.cli doctor > "$into/doctor.txt" 2>&1
printf 'part\tstatus\tseconds\n' > "$into/summary.tsv"
started="$into/.started"
touch "$started"

part() { # NAME COMMAND...
    local name="$1" start="$SECONDS" status
    shift
    timeout --kill-after=10 600 "$@" > "$into/$name.log" 2>&1
    status=$?
    printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - start))" | tee -a "$into/summary.tsv"
    find benchmarks/results -name '*_cuda*.json' -newer "$started" -exec cp {} "$into/" \;
}

part tests_kernels "$python" -m pytest -m gpu tests/kernels -q -ra
part tests_rest "$python" -m pytest -m gpu tests --ignore tests/kernels -q -ra
rm -f benchmarks/results/attention_cuda.json
for size in base large; do
    for left in 256 512; do
        part "attention_${size}_streams_$left" "$python" benchmarks/attention.py --sizes "$size" --left "$left" --lengths \
            --rounds 20 --most-seconds 3 --add
    done
    part "attention_${size}_whole" "$python" benchmarks/attention.py --sizes "$size" --streams --rounds 20 \
        --most-seconds 3 --add
done
part front_end_bfloat16 "$python" benchmarks/front_end.py --device cuda --dtypes bfloat16 --rounds 20 --chunks 16 64
if "$python" benchmarks/streams.py --help | grep -q -- --device; then
    part streams "$python" benchmarks/streams.py --device cuda
fi
rm -f "$started"
! awk -F '\t' 'NR > 1 && $2 != 0' "$into/summary.tsv" | grep -q .
