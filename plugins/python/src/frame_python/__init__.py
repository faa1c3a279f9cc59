"""Frame's engine for Python handlers: `model.py` files of DJL Serving, and scripts of its relatives."""
