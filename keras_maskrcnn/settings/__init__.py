"""What a config may hold: the choices of its fields, their types and their ranges."""
