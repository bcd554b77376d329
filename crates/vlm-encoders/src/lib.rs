//! Image and text encoders, picture processing and tokenizers, and the Hugging Face folders
//! that hold them.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use vlm_encoders::{DualFolder, PictureEncoder, TextEncoder};
//!
//! let clip = DualFolder::open("models/clip-vit-base-patch32".as_ref(), &Device::flex())?;
//! let pixels = clip.images.process_path("cat.png".as_ref())?;
//! let image = clip.encode_pictures(&[pixels])?;
//! let text = clip.encode_texts(&["a photo of a cat".to_owned()])?;
//! println!("{} {}", image, text); // [1, dim] each, L2-normalised
//! # Ok::<(), vlm_encoders::Error>(())
//! ```
#![warn(missing_docs)]

mod blueprint;
pub mod checkpoint;
mod clip;
mod encode;
mod error;
mod families;
mod folder;
pub mod four_bit;
pub mod image;
mod models;
mod new_decoder;
mod sentence;
mod side;
pub mod text;
mod towers;

pub use blueprint::{Blueprint, read_object, write_config};
pub use checkpoint::{Layout, Named, Packing};
pub use clip::{ClipConfig, Start, TextConfig, VisionConfig};
pub use encode::{PictureEncoder, TextEncoder, TextStates};
pub use error::{Error, Mismatch};
pub use families::{DualSpec, Fields, Nested, Spec};
pub use folder::{
    DualFolder, Encoder, TextFolder, VisionFolder, Weights, batch_pixels, batch_tokens,
    check_images, check_tokens, end_places, pool_places, text_mask,
};
pub use models::{DualModel, TextModel, VisionModel};
pub use new_decoder::NewDecoder;
pub use sentence::Pooling;
pub use side::{PictureSide, TextSide};
pub use towers::{
    HeadSpec, Patches, Places, PostNorm, States, TextPool, TextSpec, TextTower, VisionPool,
    VisionSpec, VisionTower, padding_mask,
};
pub use vlm_nn::four_bit::FourBitConfig;
pub use vlm_store::Float;
