"""The engine openvino for Frame."""
