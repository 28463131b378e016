"""The parts of every training run: loop, checkpoints, log, peers, optimiser, schedule."""
