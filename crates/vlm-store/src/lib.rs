//! Files of tensors, and files that are whole or not there.
//!
//! - [`TensorFiles`] reads `model.safetensors` or its shards, one tensor at a time, so that
//!   opening a model takes its own size in memory and no more. A header is checked in full
//!   before anything is allocated.
//! - [`write_tensors`] streams tensors to a safetensors file as Hugging Face reads it.
//! - [`write_file`] and [`StagedDir`] make a file or folder appear complete or not at all.
//!
//! ```
//! use burn::tensor::TensorData;
//! use vlm_store::{Float, TensorFiles, TensorSpec, write_tensors};
//!
//! let dir = tempfile::tempdir()?;
//! let file = dir.path().join("model.safetensors");
//! let spec = TensorSpec { name: "w".into(), shape: vec![2] };
//! write_tensors(&file, Float::F32, &[], &[spec], &mut |_| TensorData::from([1.0f32, 2.0]))?;
//! let files = TensorFiles::open_file(&file)?;
//! assert_eq!(files.read("w")?, TensorData::from([1.0f32, 2.0]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(missing_docs)]

mod atomic;
mod error;
mod header;
mod reader;
mod writer;

pub use atomic::{StagedDir, write_file};
pub use error::Error;
pub use reader::TensorFiles;
pub use writer::{
    Float, Stored, TensorSpec, write_mixed, write_sharded, write_tensors, write_tensors_from,
};
