"""Video decoding, compared with other libraries."""
