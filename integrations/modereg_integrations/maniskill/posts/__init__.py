"""``ModeregPosts6-v1`` and ``ModeregPosts24-v1``: a stick goes between posts (D3IL's Avoid)."""
