"""Ops with several implementations: a folder holds the public function and a readable reference."""
