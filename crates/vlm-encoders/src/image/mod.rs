//! Pictures: decoding files, and preparing them for an encoder the way Hugging Face does.
//!
//! [`load`] reads a file of any common format into RGB. [`ImageProcessor`] resizes, crops and
//! normalises it as `preprocessor_config.json` says; the result equals that of transformers' slow
//! processors on Pillow, whose resampling is repeated to the bit. [`Kind`] lists the classes.
//!
//! A processor makes [`Pixels`]. A model with patches of its own (SigLIP 2 NaFlex) asks for
//! [`Pixels::patches`]; [`ImageProcessor::patching`] tells whether it does. One that looks at a picture
//! in tiles (Idefics 3) asks for [`ImageProcessor::tiles`].

mod bound;
mod config;
mod crop;
mod decode;
mod error;
mod filter;
mod jpeg;
mod kind;
mod passes;
mod patches;
mod pixels;
mod processor;
mod resample;
mod save;
mod tiles;

pub use decode::{MAX_EDGE, MAX_PIXELS, load, load_bytes, load_rgba, load_rgba_bytes, size};
pub use error::ImageError;
pub use filter::Filter;
pub use kind::Kind;
pub use patches::{Patches, Patching};
pub use pixels::Pixels;
pub use processor::{CLIP_MEAN, CLIP_STD, ImageProcessor, Resize};
pub use resample::{Window, resize};
pub use tiles::{Tiles, Tiling};

/// 8-bit RGB, row after row.
pub use ::image::RgbImage;
/// 8-bit RGB with straight alpha, row after row.
pub use ::image::RgbaImage;
