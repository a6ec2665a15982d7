#!/usr/bin/env bash
# The composites that the embedded model learns from: cut-outs and backgrounds that come in packages (490 MB), cropped,
# filtered, and split by object into those trained on and those held out. Needs Debian's apt-get and dpkg-deb, and npm.
# MODEL_CARD.md names the packages' licences. Running it again goes on where it stopped.
#
#     runs/composites.sh            data/composites
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PBE=${PBE:-.venv/bin/pbe}
DATA=${DATA:-data/composites}

mkdir -p data/downloads
(
  cd data/downloads
  for package in tuxpaint-stamps-default openclipart-png plasma-workspace-wallpapers gnome-backgrounds mate-backgrounds \
    lomiri-wallpapers-20.04 ukui-wallpapers; do
    compgen -G "${package}_*.deb" >/dev/null || apt-get download "$package"
  done
  compgen -G "lobehub-fluent-emoji-3d-*.tgz" >/dev/null || npm pack @lobehub/fluent-emoji-3d
)
"$PBE" prepare composites "$DATA" --downloads data/downloads
