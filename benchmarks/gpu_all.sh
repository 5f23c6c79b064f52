#!/bin/bash
# All figures that need a GPU, in one log, in less than 10 minutes of an H100: time, memory and first step of training
# in bfloat16 and float32 beside torchvision's, inference beside torchvision's, batches of evaluation, waiting for data.
#
#     bash benchmarks/gpu_all.sh LOG          # in the root of a checkout; python3 has CUDA's JAX, torchvision, Keras
#
# Each part has a limit, so that one that hangs does not stop the others. The log begins with the commit and the card.
# Without a network: `_host.*.so` in keras_maskrcnn/geometry/native comes with the checkout, and the wheels of Keras,
# pycocotools, orjson and faster-coco-eval are on PYTHONPATH.
set -u
log=${1:?the file to write}
root=$(pwd) work=$(mktemp -d)
export KERAS_BACKEND=jax KERAS_HOME=$work/home PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
export PYTHONPATH=$root:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}
true > "$log"
exec > >(tee -a "$log") 2> >(grep --line-buffered -v -e "^W0" -e "^I0" | tee -a "$log" >&2)

part() { # SECONDS COMMAND...: one part with its limit
    echo "== ${*:2}"
    local began=$SECONDS
    timeout --kill-after=5 "$1" "${@:2}" || echo "== NOT FINISHED, status $?"
    echo "== took $((SECONDS - began)) s"
}

git log -1 --format='commit %h %s' 2>/dev/null
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
python3 -c "import jax, jaxlib, keras, torch, torchvision as v
print('jax', jax.__version__, 'keras', keras.__version__, 'torch', torch.__version__, 'torchvision', v.__version__)"

# First step cold, then from the cache; the peak of the second process has no search for convolutions in it.
for dtype in mixed_bfloat16 float32; do
    export JAX_COMPILATION_CACHE_DIR=$work/programs_$dtype
    part 75 python3 benchmarks/gpu_step.py --side ours --dtype $dtype --runs 5
    part 45 python3 benchmarks/gpu_step.py --side ours --dtype $dtype
    part 40 python3 benchmarks/gpu_step.py --side torchvision --dtype $dtype
done
export JAX_COMPILATION_CACHE_DIR=$work/programs
for only in "model, 800x1056, 100 " "in bfloat16, 800x1056, 100"; do
    part 50 python3 benchmarks/bench_inference.py --only "$only" --torch-python python3 --runs 7
done

data=$(python3 -c "import bench_loader as b; b.COUNT = 1024; print(b.write_dataset(8))")
part 60 python3 benchmarks/bench_evaluation.py --data "$data/annotations.json" --backbone resnet50 --min-size 800 \
    --count 64 --batch-sizes 8 --runs 3
# Epochs 2 and 3 count: data_wait is a column of metrics.csv.
part 130 python3 -c "import sys, keras_maskrcnn_launcher as launcher; sys.exit(launcher.main())" train \
    --images "$data" --val-images "$data" --min-size 1024 --max-size 1024 --mixed-precision auto --epochs 3 \
    --evaluate-every 3 --batch-size 4 --augment light --run-dir "$work/run"
cat "$work/run/metrics.csv"
echo "== all took $SECONDS s"
