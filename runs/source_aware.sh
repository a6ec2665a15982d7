#!/usr/bin/env bash
# Structure guidance and context for the embedded model: first the new parts learn beside a model that stays as it is,
# then all learns. Running it again goes on where it stopped. Needs data/composites, see composites.sh, and `make install` (extras: train, evaluate).
#
#     runs/source_aware.sh
#     OUT=/tmp/source-aware STEPS=4 MORE=4 AHEAD=64 EDITS=4 runs/source_aware.sh      a try-out
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PBE=${PBE:-.venv/bin/pbe}
DATA=${DATA:-data/composites}
OUT=${OUT:-runs-out/source-aware}
INIT=${INIT:-embedded}
STEPS=${STEPS:-1500}
MORE=${MORE:-3600}

learn() {  # from, to, steps, of which with a falling rate, and what differs
  "$PBE" train --data "$DATA" --init "$1" --output "$2" --add structure,context --steps "$3" --decay-steps "$4" \
    --batch-size 32 --drop-exemplar 0.1 --outside-weight 0.1 --ema-decay 0.999 --held-out-edits 0 \
    --checkpoint-every 200 --held-out-every "$3" --sample-every "$3" --precision "${PRECISION:-bfloat16}" "${@:5}"
}

learn "$INIT" "$OUT/parts" "$STEPS" $((STEPS / 2)) \
  --learning-rate 1e-3 --warmup-steps 50 --timestep-power 2 --ahead "${AHEAD:-8192}"
learn "$OUT/parts/model" "$OUT" "$MORE" $((MORE * 4 / 9)) --train full \
  --learning-rate 6e-4 --warmup-steps 100 --timestep-power 1.6 --ahead "${AHEAD:-40960}" ${COMPILE:+--compile}
"$PYTHON" benchmarks/source_aware.py --data "$DATA" --model "$OUT/model" --edits "${EDITS:-200}" \
  --json "$OUT/source_aware.json" --sheet "$OUT/source_aware.png"
