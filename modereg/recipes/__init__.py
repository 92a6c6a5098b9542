"""The recipes that the command line runs: plain loops to read, run from Python, or copy."""
