#!/usr/bin/env bash
# Structure guidance and context for the embedded model: the new parts learn, the model stays as it is. Running it again
# goes on where it stopped. Needs data/composites, see composites.sh, and `make install` (extras: train, evaluate).
#
#     runs/source_aware.sh
#     OUT=/tmp/source-aware STEPS=4 AHEAD=64 EDITS=4 runs/source_aware.sh      a try-out
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PBE=${PBE:-.venv/bin/pbe}
DATA=${DATA:-data/composites}
OUT=${OUT:-runs-out/source-aware}
INIT=${INIT:-embedded}
STEPS=${STEPS:-2000}

"$PBE" train --data "$DATA" --init "$INIT" --output "$OUT" --add structure,context --steps "$STEPS" \
  --decay-steps $((STEPS / 2)) --ahead "${AHEAD:-16384}" --batch-size 32 --learning-rate 1e-3 --warmup-steps 50 \
  --drop-exemplar 0.1 --outside-weight 0.1 --timestep-power 2 --ema-decay 0.999 --held-out-edits 0 \
  --checkpoint-every 250 --held-out-every "$STEPS" --sample-every "$STEPS" --precision "${PRECISION:-float32}"
"$PYTHON" benchmarks/source_aware.py --data "$DATA" --model "$OUT/model" --edits "${EDITS:-200}" \
  --json "$OUT/source_aware.json" --sheet "$OUT/source_aware.png"
