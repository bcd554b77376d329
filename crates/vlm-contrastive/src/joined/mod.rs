//! Dual encoders joined from any image encoder and any text encoder.
//!
//! Each tower keeps its folder; a head on each maps its vector to the shared space. A tower is
//! trained with its head, or locked (LiT, Zhai et al. 2021, arXiv 2111.07991); what a locked tower
//! says of a set is computed once and kept on disk ([`FeatureCache`]).

#[cfg(feature = "train")]
mod batch;
mod config;
pub(crate) mod folder;
mod head;
mod model;
#[cfg(feature = "train")]
mod task;
#[cfg(feature = "train")]
mod towers;

pub use config::{HeadKind, ImagePool, ImageReading, JoinConfig};
#[cfg(feature = "train")]
pub(crate) use folder::image_vectors;
pub use folder::{Dual, JoinedFolder};
pub use head::Head;
pub use model::JoinedModel;
#[cfg(feature = "train")]
pub use task::JoinedTask;
#[cfg(feature = "train")]
pub use towers::Towers;
#[cfg(feature = "train")]
pub use vlm_train::FeatureCache;
