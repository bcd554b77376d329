//! From a prompt to tokens, one after another.
