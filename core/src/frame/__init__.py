"""Frame: a model server whose every framework is a plugin."""

DISTRIBUTION = "frame-core"
__version__ = "0.1.0"
