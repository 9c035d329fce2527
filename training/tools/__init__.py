"""Tools that a model calls: how calls are written, the calculator, Python, retrieval, and the loop that lets it use them."""
