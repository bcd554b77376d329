//! Model files of other programs turned into Hugging Face folders.
//!
//! [`import`] reads a GGUF file (llama.cpp's format; [`gguf`]) or an ONNX file ([`onnx`]) and writes
//! a folder that this workspace and transformers open: `config.json`, `model.safetensors`, and the
//! tokenizer or the preparation of pictures. What a file says that a folder cannot express is refused
//! by name, never dropped in silence.
//!
//! A file may come from anywhere, so counts, lengths and offsets are checked against the file's size
//! before anything is allocated, and tensors are decoded one at a time.
//!
//! ```no_run
//! use std::path::Path;
//! use vlm_import::{Options, import};
//!
//! let made = import(
//!     Path::new("model.gguf"),
//!     Path::new("model"),
//!     &Options::default(),
//!     &mut |done, total| eprintln!("{done} of {total} bytes"),
//! )?;
//! println!("{} tensors", made.tensors);
//! # Ok::<(), vlm_import::Error>(())
//! ```

mod error;
mod folder;
pub mod gguf;
mod input;
pub mod onnx;
mod plan;

pub use error::Error;
pub use folder::{Made, Options, import};
pub use plan::{Format, Plan};
pub use vlm_store::Float;
