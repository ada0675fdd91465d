#!/bin/sh
# The figures of docs/analysis.md: trains four networks on the digits, and measures them. Twenty minutes on two cores that are shared.
#
#     sh benchmarks/analysis_digits.sh [FOLDER]     for numbers and figures; default: runs/analysis/measured
set -e
out=${1:-runs/analysis/measured}
python=${PYTHON:-.venv/bin/python}
runs=runs/analysis
for name in resnet20 plain20 resnet56 plain56; do
    $python main.py --config=configs/digits.py --workdir=$runs/$name --config.model.name=cifar_$name
done
analyze() {
    file=$1
    shift
    $python -m resnet_jax analyze "$@" --out="$out/$file.json"
}
analyze deletion deletion $runs/resnet56 $runs/plain20
analyze deletion_count deletion $runs/resnet56 --count
analyze reordering reordering $runs/resnet56
analyze gradients gradients $runs/resnet56 $runs/plain56
analyze correlation correlation $runs/resnet56 $runs/plain56 $runs/plain20
analyze paths paths $runs/resnet56
analyze responses responses $runs/resnet20 $runs/plain20 $runs/resnet56
analyze surface_1d surface $runs/resnet56 $runs/plain56 --dimensions=1
analyze surface_2d surface $runs/resnet20 $runs/plain20
analyze spectrum spectrum $runs/resnet20 $runs/plain20
analyze features features $runs/resnet20 --index=2
analyze gradcam gradcam $runs/resnet20
