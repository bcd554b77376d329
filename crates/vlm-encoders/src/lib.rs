//! Image and text encoders, picture processing and tokenizers, and the Hugging Face folders
//! that hold them.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use vlm_encoders::{ClipFolder, text::Padding};
//!
//! let clip = ClipFolder::open("models/clip-vit-base-patch32".as_ref(), &Device::flex())?;
//! let pixels = clip.images.process_path("cat.png".as_ref())?;
//! let image = clip.model.encode_images(vlm_encoders::batch_pixels(&[pixels], &Device::flex()));
//! let text = clip.encode_texts(&["a photo of a cat".to_owned()])?;
//! println!("{} {}", image, text); // [1, dim] each, L2-normalised
//! # Ok::<(), vlm_encoders::Error>(())
//! ```
#![warn(missing_docs)]

mod checkpoint;
mod clip;
mod error;
mod folder;
pub mod image;
pub mod text;
mod towers;

pub use checkpoint::{Layout, Named, load, save, save_sharded};
pub use clip::{ClipConfig, ClipModel, Start, TextConfig, VisionConfig};
pub use error::{Error, Mismatch};
pub use folder::{ClipFolder, batch_pixels, batch_tokens, end_places};
pub use towers::{TextTower, VisionTower, patch_positions};
pub use vlm_store::Float;
