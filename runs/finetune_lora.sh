#!/usr/bin/env bash
# Fine-tuning on a few pictures of your own with low-rank weights: the released model on a GPU of 16 GB. Running it again
# goes on where it stopped.
#
#     PICTURES=photos MASKS=masks runs/finetune_lora.sh      masks white where the object is; see docs/fine-tuning.md
#     LAPTOP=1 runs/finetune_lora.sh                         the embedded model, on composites, in minutes on a CPU; 490 MB
#                                                            are downloaded for them where there are none
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PBE=${PBE:-.venv/bin/pbe}
RANK=${RANK:-8}

if [ -z "${LAPTOP:-}" ]; then
  OUT=${OUT:-runs-out/lora}
  INIT=${INIT:-Fantasy-Studio/Paint-by-Example}
  DATA=$OUT/data/index.jsonl
  "$PBE" prepare folder "$OUT/data" --pictures "${PICTURES:?the folder of your pictures}" ${MASKS:+--masks "$MASKS"} \
    --min-area 0.001
  STEPS=${STEPS:-1000}
  MORE=(--batch-size 4 --precision bfloat16 --gradient-checkpointing --workers 4)
else
  OUT=${OUT:-runs-out/lora-laptop}
  INIT=${INIT:-embedded}
  DATA=${DATA:-data/composites}
  [ -e "$DATA/composites.jsonl" ] || DATA="$DATA" PBE="$PBE" runs/composites.sh >&2
  STEPS=${STEPS:-20}
  MORE=(--batch-size "${BATCH:-8}" --device cpu --workers 0 --log-every 1 --held-out-edits "${EDITS:-16}")
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
fi

RUN=(train --data "$DATA" --init "$INIT" --output "$OUT/run" --lora-rank "$RANK" --learning-rate 1e-4
  --warmup-steps $((STEPS / 10)) --ema-decay 0.99 --steps "$STEPS" --held-out-every "$STEPS" "${MORE[@]}")
"$PBE" "${RUN[@]}" --dry-run >&2
"$PBE" "${RUN[@]}"
echo "$OUT/run/lora"
