#!/bin/sh
# Everything that has to be looked at on a GPU, ten minutes a call; call it again until it says that nothing is left.
#
#   benchmarks/gpu/run.sh                       # on the GPU; writes runs/gpu/cuda/results.md
#   benchmarks/gpu/run.sh --device cpu --tiny   # two minutes on a CPU, to see that it works
#   PYTHON=python3 benchmarks/gpu/run.sh --only step-npo-kl
#
# The package need not be installed, only what it needs: the first line of the table says what is missing.
set -eu
cd "$(dirname "$0")/../.."
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m benchmarks.gpu "$@"
