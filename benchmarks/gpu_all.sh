#!/usr/bin/env bash
# Everything that needs a GPU, in one unattended call, what matters most first.
#
#     bash benchmarks/gpu_all.sh [FOLDER] [MINUTES]
#
# FOLDER (default gpu_results) takes the log of each part, summary.tsv (part, exit status, seconds) and the JSON results that
# the benchmarks wrote. MINUTES (default 60) is the time for all of it: a part gets what is left, at most its own limit; one
# for which nothing is left is written down as "left out". Results of parts that ran out of time (status 124) hold the rows
# that were measured. Called again it measures what was left out before. How long the parts take on a GPU is not known yet.
# Needs a CUDA build of torch with its triton, and the packages of the extra `test`. PYTHON=... names the interpreter.
set -u
cd "$(dirname "$0")/.."
into="${1:-gpu_results}"
ends=$((SECONDS + 60 * ${2:-60}))
mkdir -p "$into"
into="$(cd "$into" && pwd)"
python="${PYTHON:-python}"
"$python" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device here"; print(torch.cuda.get_device_name())' || exit 2
nvidia-smi > "$into/nvidia-smi.txt" 2>&1
summary="$into/summary.tsv"
[ -f "$summary" ] || printf 'part\tstatus\tseconds\n' > "$summary"
started="$into/.started"
touch "$started"

part() { # NAME MOST_SECONDS COMMAND...
    local name="$1" most="$2" start="$SECONDS" left=$((ends - SECONDS)) status
    shift 2
    if awk -F '\t' -v name="$name" '$1 == name && $2 == 0 {found = 1} END {exit !found}' "$summary"; then return; fi
    if [ "$left" -lt 15 ]; then
        printf '%s\tleft out\t0\n' "$name" | tee -a "$summary"
        return
    fi
    timeout --kill-after=10 "$((left < most ? left : most))" "$@" > "$into/$name.log" 2>&1
    status=$?
    printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - start))" | tee -a "$summary"
    find benchmarks/results -name '*_cuda*.json' -newer "$started" -exec cp {} "$into/" \;
}

attention() { # NAME MOST_SECONDS SIZE ARGUMENTS...
    local name="$1" most="$2" size="$3"
    shift 3
    part "$name" "$most" "$python" benchmarks/attention.py --add --rounds 20 --most-seconds 1 --sizes "$size" "$@"
}

together=()
"$python" -c 'import xdist' 2> /dev/null && together=(-n 8) # most of the time goes into compiling kernels
part tests 170 "$python" -m pytest -m gpu tests -q -ra "${together[@]}"
attention attention_base_whole 90 base --streams --modes forward
attention attention_base_streams 100 base --lengths --no-flex
attention attention_base_gradients 50 base --streams --modes frozen trained --no-flex
part front_end 80 "$python" benchmarks/front_end.py --device cuda --dtypes bfloat16 --rounds 20 --streams 64 1024 --chunks 16 --add
part streams_base_320 130 "$python" benchmarks/streams.py --device cuda --models base --chunks-ms 320 --probe-seconds 5 \
    --probes 5 --seconds 60 --add
# so many that a GPU of 141 GB, or of 80, has memory for their keys and values
many=$("$python" -c 'import torch; print(8000 if torch.cuda.mem_get_info()[1] > 100e9 else 6000)')
part streams_processes 100 "$python" benchmarks/streams_processes.py --processes 6 --streams "$many" --seconds 20

# the rest, where there is time
part doctor 60 "$python" -m wavlm_live.streamer.cli doctor
attention attention_large_whole 120 large --streams --modes forward --no-flex
attention attention_large_streams 120 large --lengths --no-flex
attention attention_large_gradients 90 large --streams --modes frozen trained --no-flex
part front_end_more 300 "$python" benchmarks/front_end.py --device cuda --dtypes bfloat16 --rounds 20 --chunks 8 32 64 --add
for chunk_ms in 160 640 960; do
    part "streams_base_$chunk_ms" 200 "$python" benchmarks/streams.py --device cuda --models base --chunks-ms "$chunk_ms" \
        --probe-seconds 5 --probes 5 --seconds 60 --add
done
part streams_bundled 600 "$python" benchmarks/streams.py --device cuda --models bundled --probe-seconds 5 --probes 5 \
    --seconds 60 --add
part attention_base_flex 600 "$python" benchmarks/attention.py --add --rounds 20 --most-seconds 1 --sizes base \
    --lengths --streams 16 256 --chunks 16 --flex
rm -f "$started"
awk -F '\t' 'NR > 1 {last[$1] = $2} END {for (name in last) if (last[name] != "0") exit 1}' "$summary"
