#!/bin/bash
# A whole run as Slurm job arrays, one for each step:
#   examples/slurm/submit.sh recipe.yaml /shared/runs/mine
# A step's units need only those of earlier steps, so all of them run at the same time. The last job picks them up.
set -euo pipefail
recipe=$1
run=$2
here=$(dirname "$(realpath "$0")")
lists=$run.slurm
mkdir -p "$lists"
hf-unlearn jobs "$recipe" --output-dir "$run" --list > "$lists/all"
last=
for step in $(sed 's/.*# step \([0-9]*\).*/\1/' "$lists/all" | sort -nu); do
    list=$lists/step-$step
    grep -E "# step $step(,|\$)" "$lists/all" > "$list"
    count=$(grep -c . "$list")
    last=$(sbatch --parsable ${last:+"--dependency=afterok:$last"} --array="1-$count" "$here/unit.sbatch" "$list")
done
sbatch "--dependency=afterok:$last" "$here/finish.sbatch" "$recipe" "$run"
