//! Generative vision-language models: a picture and a question go in, text comes out.
//!
//! - [`fuse`]: the ways in which what an image tower sees reaches a language model.
//! - [`masks`]: who sees whom.
//! - [`decode`]: from a prompt to tokens, one after another.
//! - [`spatial`]: boxes and points as tokens or text.
//! - [`metrics`]: how good texts and boxes are.
#![warn(missing_docs)]

pub mod decode;
mod error;
pub mod fuse;
pub mod masks;
pub mod metrics;
pub mod spatial;

pub use error::Error;
