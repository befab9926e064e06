"""The only place of core that imports torch: data, tasks, loop, checkpoints, evaluation."""
