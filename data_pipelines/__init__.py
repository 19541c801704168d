"""Video pipelines: files and annotations to packed batches. Of ivx it imports only `ivx.text`."""
