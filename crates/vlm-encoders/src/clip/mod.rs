//! CLIP (Radford et al. 2021, arXiv 2103.00020) as `transformers` v4.57 `models/clip` has it.

mod config;
mod start;

pub use config::{ClipConfig, TextConfig, VisionConfig};
pub use start::Start;
