"""What stands above recipes and reports: the report of finished runs, and the demonstration."""
