//! Contrastive vision-language models: losses, large batches, zero-shot classification and
//! retrieval.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use vlm_contrastive::{Classifier, Templates, embed_pictures, zero_shot::top_k};
//! use vlm_encoders::DualFolder;
//!
//! let clip = DualFolder::open("runs/emoji/model".as_ref(), &Device::flex())?;
//! let labels = ["dog face".to_owned(), "cat face".to_owned()];
//! let classifier = Classifier::new(&clip, &labels, &Templates::none())?;
//! let scores = classifier.scores(embed_pictures(&clip, &["pet.png".into()])?);
//! println!("{}", labels[top_k(&scores, 1)[0]]);
//! # Ok::<(), vlm_contrastive::Error>(())
//! ```
#![warn(missing_docs)]

mod error;
mod evaluate;
#[cfg(feature = "train")]
pub mod few_label;
#[cfg(feature = "train")]
mod grad_cache;
pub mod index;
pub mod joined;
pub mod loss;
mod model;
pub mod retrieval;
#[cfg(feature = "train")]
mod sample;
mod sides;
#[cfg(feature = "train")]
pub mod solo;
#[cfg(feature = "train")]
mod task;
pub mod templates;
pub mod zero_shot;

pub use error::Error;
pub use evaluate::{Accuracy, Classifier, classify, embed_pictures, embed_texts, retrieve};
#[cfg(feature = "train")]
pub use grad_cache::{PairBatch, Pairs, Scored, gradients, loss_of_pairs};
pub use joined::{Dual, JoinedFolder};
pub use loss::{Loss, clamp_log_scale};
pub use model::DualEncoder;
#[cfg(feature = "train")]
pub use sample::{CaptionChoice, SampleConfig};
pub use sides::{PictureSide, TextSide};
#[cfg(feature = "train")]
pub use task::{BatchConfig, ContrastiveTask, retrieval_metrics};
pub use templates::Templates;
#[cfg(feature = "train")]
pub use vlm_train::{FeatureCache, Vectors};
