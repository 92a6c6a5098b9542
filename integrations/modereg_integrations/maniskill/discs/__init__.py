"""``ModeregDiscs-v1``: a cube is placed on one of four discs, whichever."""
