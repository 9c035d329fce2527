"""Text out of a model: the one loop that prefills, decodes, samples, stops and streams."""
