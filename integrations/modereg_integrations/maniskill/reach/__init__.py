"""``ModeregReach-v1``: the tool reaches a goal behind an obstacle, on its left or on its right."""
