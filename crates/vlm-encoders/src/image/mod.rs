//! Pictures: decoding files, and preparing them for an encoder the way Hugging Face does.
//!
//! [`load`] reads a file of any common format into RGB. [`ImageProcessor`] resizes, crops and
//! normalises it as `preprocessor_config.json` says; the result equals transformers' slow
//! `CLIPImageProcessor` on Pillow, whose resampling is repeated to the bit.

mod bound;
mod config;
mod crop;
mod decode;
mod error;
mod filter;
mod jpeg;
mod passes;
mod pixels;
mod processor;
mod resample;

pub use decode::{MAX_EDGE, MAX_PIXELS, load, load_bytes, load_rgba, load_rgba_bytes};
pub use error::ImageError;
pub use filter::Filter;
pub use pixels::Pixels;
pub use processor::{CLIP_MEAN, CLIP_STD, ImageProcessor, Resize};
pub use resample::{Window, resize};

/// 8-bit RGB, row after row.
pub use ::image::RgbImage;
/// 8-bit RGB with straight alpha, row after row.
pub use ::image::RgbaImage;
