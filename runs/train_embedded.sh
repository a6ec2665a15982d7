#!/usr/bin/env bash
# Trains the embedded model from nothing but packages: many hours on two CPU cores. Running it again goes on where it
# stopped. Needs Debian's apt-get and dpkg-deb, npm, and `make install` (extra: train).
#
#     runs/train_embedded.sh            the model in src/paint_by_example/assets/embedded
#     STEPS=20 DECODER_STEPS=20 MATTE_STEPS=20 runs/train_embedded.sh      a try-out that overwrites no asset
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PBE=${PBE:-.venv/bin/pbe}
DATA=${DATA:-data/composites}
OUT=${OUT:-runs-out/embedded}
STEPS=${STEPS:-20000}
DECODER_STEPS=${DECODER_STEPS:-2400}

# 1. The pictures: cut-outs and backgrounds that come in packages.
DATA="$DATA" PBE="$PBE" runs/composites.sh

# 2. What comes before painting: latent space, and what an exemplar is told by.
[ -e "$OUT/model/model_index.json" ] ||
  "$PYTHON" -m paint_by_example.embedded build --data "$DATA" --out "$OUT" --decoder-steps "$DECODER_STEPS" \
    --matte-steps "${MATTE_STEPS:-900}"

# 3. Learning to paint. bfloat16 is quick where the processor has avx512_bf16 or AMX only.
"$PBE" train --data "$DATA" --init "$OUT/model" --features "$OUT/features.npy" --output "$OUT/run" \
  --steps "$STEPS" --decay-steps $((STEPS * 2 / 5)) --batch-size 32 --learning-rate 8e-4 --workers 1 \
  --warmup-steps 100 --drop-exemplar 0.1 --outside-weight 0.1 --timestep-power 2 --ema-decay 0.999 \
  --checkpoint-every 250 --sample-every 500 --precision "${PRECISION:-bfloat16}" --compile

# 4. What tells it of the source, and then all of it together.
few=$((STEPS < 1000))
DATA="$DATA" PBE="$PBE" INIT="$OUT/run/model" OUT="$OUT/source-aware" STEPS=$((few ? STEPS : 1500)) \
  MORE=$((few ? STEPS : 3600)) AHEAD=$((few ? 64 : 40960)) EDITS=$((few ? 4 : 200)) COMPILE=1 runs/source_aware.sh

# 5. In half precision into the package.
((few)) || "$PYTHON" -m paint_by_example.embedded export --model "$OUT/source-aware/model" --data "$DATA"
