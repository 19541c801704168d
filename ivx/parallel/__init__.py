"""Where things live: the mesh, and the rules that lay arrays over it."""
