"""The worker half: runs one engine in its own process; standard library and numpy only."""
