//! Pictures with captions: formats, batches and augmentation.
//!
//! A [`Dataset`] is a list of samples; nothing is decoded when it is opened. A [`Loader`] runs
//! any closure over samples on worker threads, in a fixed order and with bounded memory, so
//! what decodes and what a model needs stays with the caller: this crate knows no models.
//!
//! ```
//! use vlm_datasets::{Dataset, Loader, order};
//!
//! let emoji = Dataset::open("emoji", "test")?;
//! assert_eq!(emoji.labels.len(), 1852);
//! let batches: Vec<Vec<usize>> = order(1, 0, 64).chunks(16).map(<[usize]>::to_vec).collect();
//! let loader = Loader { workers: 2, prefetch: 32 };
//! let captions = std::sync::Arc::new(move |sample: usize, _batch: usize| {
//!     Ok::<_, vlm_datasets::Error>(emoji.samples[sample].captions.clone())
//! });
//! for batch in loader.run(batches, captions) {
//!     assert_eq!(batch?.len(), 16);
//! }
//! # Ok::<(), vlm_datasets::Error>(())
//! ```
#![warn(missing_docs)]

mod augment;
mod batching;
mod conversations;
mod error;
mod files;
mod formats;
mod geometry;
mod loader;
mod scenes;
mod set;

pub use augment::{Augment, augment, blend, flatten};
pub use batching::{grouped, order, plain};
pub use conversations::{Conversation, Conversations, Region, Role, Turn};
pub use error::Error;
pub use loader::{Batches, Loader};
pub use scenes::write_scenes;
pub use set::{Dataset, Sample};
