# Copy to slurm/env.sh and adapt; every task sources it first (another file: slurm.env=FILE).

# module load cuda/12.8
# export NMM_PYTHON="$HOME/nmm/.venv/bin/python"  # where it is not the one that you launched with
# export NMM_SRUN_ARGS="--cpu-bind=cores"         # more options for srun
# export NCCL_SOCKET_IFNAME=ib0                   # the network between nodes, where NCCL does not find it
# export NMM_REQUEUES=20                          # train.sbatch: how often a job may put itself back (sweeps: slurm.requeues)
