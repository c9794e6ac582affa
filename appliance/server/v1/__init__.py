"""The OpenAI API below /v1: one module or package for each route."""
