"""The doors. aiohttp lives here and nowhere else."""
