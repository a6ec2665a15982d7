#!/usr/bin/env bash
# Distils the embedded model into a student of two steps that is told λ, and measures it beside its teacher on held-out
# edits. Running it again goes on where it stopped. Needs data/composites (runs/composites.sh) and `make install`
# (extras: train, evaluate, fast-cpu).
#
#     runs/distill_embedded.sh            the student in runs-out/distilled/model
#     STEPS=20 AHEAD=64 EDITS=8 OUT=/tmp/distilled runs/distill_embedded.sh      a try-out
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PBE=${PBE:-.venv/bin/pbe}
DATA=${DATA:-data/composites}
OUT=${OUT:-runs-out/distilled}
INIT=${INIT:-embedded}
STEPS=${STEPS:-2000}

# bfloat16 is quick where the processor has avx512_bf16 or AMX only.
"$PBE" distill --data "$DATA" --init "$INIT" --output "$OUT" --steps "$STEPS" --decay-steps $((STEPS / 3)) \
  --student-steps 2 --teacher-steps 6 --batch-size 32 --learning-rate 2e-4 --outside-weight 0.1 \
  --ahead "${AHEAD:-8192}" --workers "${WORKERS:-1}" --precision "${PRECISION:-bfloat16}" \
  ${COMPILE:+--compile} ${DEVICE:+--device "$DEVICE"}

"$PYTHON" benchmarks/quality_speed.py --data "$DATA" --model "$INIT" --student "$OUT/model" --edits "${EDITS:-500}" \
  --only fast draft --json "$OUT/quality_speed.json"
