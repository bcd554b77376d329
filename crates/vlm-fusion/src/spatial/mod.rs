//! Boxes and points as tokens or text, and how well they fit.
