"""The tiny runs of the recipes' tests."""

from tests.recipes.conftest import base, cloned, clusters, tuned

__all__ = ["base", "cloned", "clusters", "tuned"]
