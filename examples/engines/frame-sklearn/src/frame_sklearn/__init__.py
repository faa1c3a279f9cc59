"""The engine sklearn for Frame."""
