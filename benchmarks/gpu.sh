#!/bin/bash
# What is to be known of a GPU, in ten minutes: benchmarks/gpu.sh [--device cpu] [--tiny]
#
# Correctness first, then the whole fast suite, then speed beside timm. Each part has its
# own time, so that one that hangs takes none from the others, and its table is written as
# it grows. Everything comes into $OUT (work_dirs/gpu):
#
#   results.md        all tables, and how each part ended
#   failed_tests.txt  the names of the tests that failed
#   PART.md, PART.log of each part
#
# It needs Python 3.12, torch 2.11 and no network: SITE is a folder with the other packages,
# where there is one. To make it, with wheels that ../shared/gpu/wheels.sh collected in a
# folder that git ignores, such as work_dirs/wheels:
#
#   pip install --no-index --no-deps --target work_dirs/site work_dirs/wheels/*.whl
#   SITE=work_dirs/site OUT=$OUT bash benchmarks/gpu.sh
#
# PYTHON is the interpreter (python3). Exit code 1 where a part failed or hung.
set -u
cd "$(dirname "$0")/.." || exit 2
device=cuda tiny=
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:?--device needs a name}; shift ;;
    --tiny) tiny=--tiny ;;
    *) echo "benchmarks/gpu.sh [--device cuda|cpu] [--tiny]: there is no $1" >&2; exit 2 ;;
  esac
  shift
done
OUT=${OUT:-work_dirs/gpu}
mkdir -p "$OUT" || exit 2
OUT=$(cd "$OUT" && pwd)
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD${SITE:+:$(cd "$SITE" && pwd)}${PYTHONPATH:+:$PYTHONPATH}"
unset MMNEXTVIT_MEMORY_FORMAT MMNEXTVIT_RECOMPUTE_NORMS
failed=0
order=()
: >"$OUT/failed_tests.txt"
for name in machine correctness inference steps loader batch results; do
  rm -f "$OUT/$name.md"
done

# All that there is so far, in the order of the parts.
collect() {
  {
    echo "# Measured on $device by benchmarks/gpu.sh"
    for name in "${order[@]}"; do
      echo
      [ -f "$OUT/$name.md" ] && cat "$OUT/$name.md" && echo
      cat "$OUT/$name.end"
    done
  } >"$OUT/results.tmp"
  mv "$OUT/results.tmp" "$OUT/results.md"
}

# part NAME SECONDS COMMAND...
part() {
  local name=$1 seconds=$2 begun=$SECONDS rc=0 how
  shift 2
  [ -n "$tiny" ] && seconds=$((5 * seconds)) # on a CPU, which may be a slow one
  order+=("$name")
  echo "$name: at most $seconds s"
  timeout -k 5 "$seconds" "$@" >"$OUT/$name.log" 2>&1 || rc=$?
  case $rc in
    0) how="done" ;;
    124 | 137) how="ENDED after its $seconds s" failed=1 ;;
    *) how="FAILED with exit code $rc: $(tail -n 1 "$OUT/$name.log" | cut -c1-200)" failed=1 ;;
  esac
  echo "$name: $how, in $((SECONDS - begun)) s." | tee "$OUT/$name.end"
  grep -hoE '^(FAILED|ERROR) [^ ]+' "$OUT/$name.log" >>"$OUT/failed_tests.txt"
  collect
}

measure() {
  part "$1" "$2" "$PYTHON" benchmarks/gpu.py "$1" --out "$OUT" --device "$device" $tiny
}

pytest=("$PYTHON" -m pytest -q -rfE -p no:cacheprovider)
measure machine 40
part cuda_tests 60 "${pytest[@]}" -k "cuda or graph" tests/models/test_graphs.py tests/project/test_mmcv.py
measure correctness 60
if [ -n "$tiny" ]; then
  part fast_tests 60 "${pytest[@]}" tests/models/test_map_numbers.py
else
  # -v names a test before it hangs or is cut off.
  part fast_tests 180 "${pytest[@]}" -v -m "not slow and not deploy" tests
fi
measure inference 110
measure steps 60
measure loader 50
measure batch 40
echo "All of it is in $OUT/results.md"
exit $failed
