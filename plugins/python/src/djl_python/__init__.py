"""DJL Serving's handler interface, as Frame offers it: what a `model.py` imports.

Imports the standard library alone; numpy and Pillow are imported by the methods that need them.
"""

from djl_python.inputs import Input
from djl_python.outputs import Output
from djl_python.pair_list import PairList
from djl_python.session_manager import Session, SessionManager

__all__ = ["Input", "Output", "PairList", "Session", "SessionManager"]
