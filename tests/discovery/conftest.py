from __future__ import annotations

import pytest

from modereg.discovery import ClusterModeDiscoverer
from tests.discovery.places import discoverer_of_places


@pytest.fixture(scope="session")
def placed() -> ClusterModeDiscoverer:
    """A fitted discoverer of three places, which nobody changes."""
    return discoverer_of_places()
