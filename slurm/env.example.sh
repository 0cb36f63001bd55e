# Copy to slurm/env.sh and adapt; array.sbatch sources it in every task.

# module load python/3.11
# source "$HOME/nmm/.venv/bin/activate"

# export NMM_PYTHON=python     # the interpreter that has nmm installed
# export NMM_REQUEUES=20       # how often one task may put itself back into the queue
