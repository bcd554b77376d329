//! Fusion strategies: how what an image tower sees reaches a language model.
