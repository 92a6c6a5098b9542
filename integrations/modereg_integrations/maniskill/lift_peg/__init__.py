"""``ModeregLiftPeg-v1``: a peg that lies on the table is stood on one of its two ends."""
