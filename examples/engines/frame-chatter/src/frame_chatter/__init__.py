"""The engine chatter for Frame."""
