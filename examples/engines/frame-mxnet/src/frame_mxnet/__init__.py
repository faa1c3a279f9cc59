"""The engine mxnet for Frame."""
