"""What a run leaves behind so that others can check it. Nothing here imports torch."""
