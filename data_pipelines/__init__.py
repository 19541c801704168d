"""Video pipelines: from files and annotations to packed batches. Imports `ivx.text` and nothing else of ivx."""
