"""The engine `tensorrt`: serialized TensorRT engines on NVIDIA GPUs."""
