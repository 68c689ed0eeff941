#!/bin/bash
# One training on one or many nodes of Slurm, which survives time limits, preemption and lost nodes:
#
#   sbatch configs/cluster/slurm.sh --cfg i3d_gn_64f.yaml data.root=/data/k400
#   sbatch --nodes 4 configs/cluster/slurm.sh --cfg i3d_bn_64f.yaml data.root=/data/k400
#
# from the root of the repository, on a file system that all nodes share. Five minutes before the
# limit Slurm sends SIGUSR1: the run saves a checkpoint, asks for the job again and ends; the job
# that comes back goes on from there to the bit. A rank that dies is started again in place.

#SBATCH --job-name=videogn
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
# Here, whatever makes `python` the right one, such as: source .venv/bin/activate

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # a rank's own work is on its GPU, decoding in workers
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 10000)) # of its own, where jobs share a node

# Slurm signals the process that it has started, torchrun, which passes these on to the ranks and
# gives them so many seconds to save.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGUSR1
export PET_SHUTDOWN_TIMEOUT=120
srun --kill-on-bad-exit=1 python -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_backend c10d \
    --rdzv_endpoint "$first:$port" \
    --rdzv_id "$SLURM_JOB_ID" \
    --max_restarts 3 \
    run.py train "$@" slurm_requeue=true
