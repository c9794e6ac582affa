"""Models in onnxruntime: sessions, K/V buffers, execution providers, the prepacked cache, grammars."""
