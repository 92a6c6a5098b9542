"""Learning several behaviours from nothing with a diffusion policy (DDiffPG, arXiv 2406.00681)."""
