#!/usr/bin/env bash
# The paper's ablation in small: five models of 32 pixels, trained alike but for one part of the method more each, and
# the table of their scores. Running it again goes on where it stopped. Needs data/composites, see train_embedded.sh, and
# `make install` (extras: train, evaluate).
#
#     runs/ablation.sh
#     OUT=/tmp/ablation STEPS=20 LIMIT=16 runs/ablation.sh      a try-out
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PBE=${PBE:-.venv/bin/pbe}
DATA=${DATA:-data/composites}
OUT=${OUT:-runs-out/ablation}
STEPS=${STEPS:-1000}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}   # two runs at a time, of one thread each, get more done than one of two

run() { # folder, start, share of dropped exemplars, further options
  "$PBE" train --data "$DATA" --output "$OUT/$1" --init "$OUT/start/$2" --drop-exemplar "$3" "${@:4}" \
    --steps "$STEPS" --decay-steps $((STEPS / 3)) --batch-size 64 --learning-rate 1e-3 --warmup-steps 100 \
    --ema-decay 0.999 --outside-weight 0.1 --ahead "${AHEAD:-16384}" --workers 0 --device cpu --held-out-edits 0 \
    --checkpoint-every 250 --keep-checkpoints 1 --held-out-every "$STEPS" --sample-every "$STEPS"
}

both() { # waits for two runs, and stops where one of them has failed
  local failed=0
  wait "$1" || failed=1
  wait "$2" || failed=1
  return $failed
}

# 1. Models that have learned nothing, and a U-Net that has learned to fill holes: the prior.
[ -e "$OUT/quality.safetensors" ] || "$PYTHON" -m paint_by_example.ablation build --data "$DATA" --out "$OUT"
run prior-training vector 1 & one=$!
run baseline grid 0 --no-augment & other=$!
both $one $other
[ -e "$OUT/start/vector-prior/model_index.json" ] || "$PYTHON" -m paint_by_example.ablation graft --out "$OUT"

# 2. The five, each with one part more; the first is done.
run prior grid-prior 0 --no-augment & one=$!
run augmentation grid-prior 0 & other=$!
both $one $other
run bottleneck vector-prior 0 & one=$!
run guidance vector-prior 0.2 & other=$!
both $one $other

# 3. The table, beside the paper's.
"$PBE" ablate "$DATA" "$OUT" ${LIMIT:+--limit "$LIMIT"}
