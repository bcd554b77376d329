//! Generative vision-language models: a picture and a question go in, text comes out.
//!
//! - [`fuse`]: the ways in which what an image tower sees reaches a language model.
//! - [`masks`]: who sees whom.
//! - [`decode`]: from a prompt to tokens, one after another.
//! - [`spatial`]: boxes and points as tokens or text.
//! - [`metrics`]: how good texts and boxes are.
//!
//! [`GenerativeFolder`] opens and writes folders of LLaVA, Idefics 3, SmolVLM and PaliGemma as
//! transformers does.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use vlm_encoders::image::load;
//! use vlm_fusion::GenerativeFolder;
//!
//! let model = GenerativeFolder::open("models/llava-1.5-7b-hf".as_ref(), &Device::default())?;
//! let picture = load("cat.png".as_ref())?;
//! let prompt = model.prepare("What is this?", &[picture])?;
//! println!("{}", model.model.logits(&prompt)?); // [tokens, vocabulary]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(missing_docs)]

pub mod assemble;
pub mod decode;
mod error;
mod families;
mod folder;
pub mod fuse;
pub mod masks;
pub mod metrics;
mod model;
mod plan;
mod processor;
mod prompt;
pub mod spatial;
mod spec;
#[cfg(feature = "train")]
pub mod task;

pub use assemble::Assembly;
pub use error::Error;
pub use folder::GenerativeFolder;
pub use model::GenerativeModel;
pub use plan::Plan;
pub use prompt::Prepared;
pub use spec::{GenerativeSpec, Reading};
