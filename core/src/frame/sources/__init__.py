"""The shipped model sources; each runs in the download process alone."""
