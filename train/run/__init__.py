"""What every training run stands on: loop, checkpoints, log, peers, optimiser, schedule."""
