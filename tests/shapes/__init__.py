"""Models of published shapes with random weights: what they cost, beside one another and beside llama.cpp."""
