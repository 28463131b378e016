"""The offline stage: decode videos once into clip stores with cached foreground maps."""
