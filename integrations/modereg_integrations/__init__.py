"""Adapters of modereg to other libraries; each submodule needs the extra of its name."""
