"""Frame's engine for ONNX models, by ONNX Runtime."""
