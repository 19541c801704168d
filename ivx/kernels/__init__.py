"""Ops with more than one implementation: each folder holds the public function and a readable reference."""
