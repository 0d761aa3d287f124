"""Our figures beside the floor, in one run: ``make bench``."""
