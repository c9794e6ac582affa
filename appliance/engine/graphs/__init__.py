"""ONNX graphs, read and rewritten as protocol buffers."""
