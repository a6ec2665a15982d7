#!/usr/bin/env bash
# The paper's training: Stable Diffusion 1.4 as the start, Open Images as the data, 40 epochs on 8 or 64 GPUs. Running it
# again goes on where it stopped. Needs `make install` with a torch for the machine's GPUs, and the extra tensorboard.
#
#     runs/train_openimages.sh                     on one machine with 8 GPUs
#     NODES=8 NODE=0 HOST=first runs/train_openimages.sh      on each of 8 machines, NODE from 0 to 7, HOST the first of them
#     RECIPE=released runs/train_openimages.sh     as the authors' code does it: 8 GPUs with 4 examples each
#     LAPTOP=1 runs/train_openimages.sh            the same commands in minutes, on two processes of a CPU, with composites; 490 MB
#                                                  are downloaded for them where there are none
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PBE=${PBE:-.venv/bin/pbe}
TORCHRUN=${TORCHRUN:-.venv/bin/torchrun}
RECIPE=${RECIPE:-paper}
NODES=${NODES:-1}

if [ -z "${LAPTOP:-}" ]; then
  OPENIMAGES=${OPENIMAGES:-data/openimages}   # train/*.jpg and oidv6-train-annotations-bbox.csv
  SD=${SD:-data/sd-v1-4.ckpt}                 # Stable Diffusion 1.4; its licence, CreativeML OpenRAIL-M, goes with the result
  OUT=${OUT:-runs-out/openimages}
  DATA=$OUT/data/index.jsonl
  INIT=$OUT/start
  GPUS=8
  if [ "$RECIPE" = paper ]; then BATCH=256; else BATCH=32; fi

  # 1. An index of pictures and boxes: 2% to 80% of the picture, no groups, no drawings. Broken pictures are skipped.
  "$PBE" prepare openimages "$OUT/data" \
    --annotations "$OPENIMAGES/oidv6-train-annotations-bbox.csv" --pictures "$OPENIMAGES/train"

  # 2. The image prior: the U-Net takes nine channels, CLIP's image model takes the text model's place.
  [ -e "$INIT/model_index.json" ] ||
    "$PBE" convert "$SD" "$INIT" --image-encoder openai/clip-vit-large-patch14 --dtype float32

  # 3. Forty epochs. Where the dry run below says more than a GPU has: MORE_OPTIONS="--accumulate 8 --shard".
  STEPS=$((40 * $(wc -l <"$DATA") / BATCH))
  MORE=(--data "$DATA" --precision bfloat16 --gradient-checkpointing --workers 8 --checkpoint-every 1000
    --held-out-every 5000 --sample-every 5000 --tensorboard ${MORE_OPTIONS:-})
else
  OUT=${OUT:-runs-out/openimages-laptop}
  DATA=${DATA:-data/composites}
  [ -e "$DATA/composites.jsonl" ] || DATA="$DATA" PBE="$PBE" runs/composites.sh >&2
  INIT=${INIT:-embedded}
  GPUS=2
  BATCH=${BATCH:-16}
  STEPS=${STEPS:-20}
  MORE=(--data "$DATA" --device cpu --workers 0 --warmup-steps $((STEPS / 4)) --checkpoint-every 10
    --held-out-every "$STEPS" --held-out-edits "${EDITS:-16}" --sample-every "$STEPS" --log-every 1)
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
fi

# What it will need, and then the run itself: the same model in model/, its averages, log, grids and card beside it.
RUN=(train --init "$INIT" --output "$OUT/run" --recipe "$RECIPE" --batch-size "$BATCH" --steps "$STEPS" "${MORE[@]}")
WORLD_SIZE=$((GPUS * NODES)) "$PBE" "${RUN[@]}" --dry-run >&2
"$TORCHRUN" --nnodes "$NODES" --node-rank "${NODE:-0}" --nproc-per-node "$GPUS" \
  --master-addr "${HOST:-127.0.0.1}" --master-port "${PORT:-29500}" -m paint_by_example "${RUN[@]}"
