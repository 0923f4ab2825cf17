#!/bin/sh
# Train twice, look at what was recorded, and bring the best model back: `sh demo.sh BIN`.
# BIN is the bin folder of a virtual environment with replicate, numpy and scikit-learn.
set -eu

bin=$(cd "${1:?usage: sh demo.sh BIN}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
PATH=$bin:$PATH

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
mkdir "$folder/digits"
cp "$here/train.py" "$here/evaluate.py" "$here/replicate.yaml" "$folder/digits"
cd "$folder/digits"

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

run python train.py --lr 0.01
run python train.py --lr 0.1
run replicate ls
run replicate log
run replicate show best

# `best` is the best checkpoint of the newest experiment; which experiment did better?
better=$(replicate ls --quiet --sort accuracy-desc --number 1)@best
recorded=$(replicate show "$better" --json | python -c 'import json, sys; print(repr(json.load(sys.stdin)["metrics"]["accuracy"]))')

run replicate checkout "$better" -o ../restored
run python ../restored/evaluate.py ../restored --expect "$recorded"
