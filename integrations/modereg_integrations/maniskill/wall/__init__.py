"""``ModeregWall-v1``: a cube is brought past a wall, on its left, on its right, or over it."""
