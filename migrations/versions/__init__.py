"""One file per schema step: number, `pre` or `post` deploy, name."""
