# Copy to slurm/env.sh and adapt; array.sbatch sources it in every task.

# module load python/3.11
# source "$HOME/nmm/.venv/bin/activate"

# export NMM_PYTHON=python     # the interpreter that has nmm installed
# export NMM_REQUEUES=20       # how often one task may put itself back into the queue
# export NMM_SRUN_ARGS="--cpu-bind=cores"  # more options for the srun that starts the ranks of a run
# export NCCL_SOCKET_IFNAME=ib0  # the network between nodes, where NCCL does not find it
