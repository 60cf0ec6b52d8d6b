"""What exists and what happened: catalogue, launch windows, keys, usage. The lowest package; imports nothing of ours."""
