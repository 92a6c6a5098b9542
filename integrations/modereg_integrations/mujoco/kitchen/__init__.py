"""FrankaKitchen, told apart by the order in which its subtasks are completed."""
