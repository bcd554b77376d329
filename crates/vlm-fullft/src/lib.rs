//! Training all weights of a model in about the memory that inference takes.
//!
//! [`Lomo`] and [`AdaLomo`] change each weight in the middle of the backward pass, as soon as its gradient
//! is known, and drop the gradient: no more than one is ever alive, and there are no moments. [`Mezo`] has no
//! backward pass at all: it compares the losses on both sides of the weights.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use vlm_fullft::{Lomo, LomoConfig};
//! use vlm_nn::{Linear, params};
//!
//! let device = Device::flex().autodiff();
//! let model = params::initialize(Linear::new(4, 3, true, &device), 1, &|_, _| params::Init::Normal(0.5));
//! let x = Tensor::<2>::ones([2, 4], &device);
//! let mut rule = Lomo::new(LomoConfig::default());
//! let loss = |model: Linear| Ok::<_, ()>((model.forward(x.clone()) - 1.0).square().sum());
//! let (model, first) = rule.step(model, &loss, 0.05);
//! let (_, second) = rule.step(model, &loss, 0.05);
//! assert!(second.unwrap().loss < first.unwrap().loss);
//! ```
#![warn(missing_docs)]

mod ada_lomo;
mod fused;
mod lomo;
mod mezo;
#[cfg(feature = "train")]
mod rule;

pub use ada_lomo::{AdaLomo, AdaLomoConfig};
pub use fused::{Change, Passed, Weight, backward};
pub use lomo::{Lomo, LomoConfig};
pub use mezo::{Mezo, MezoConfig, MezoStep, Probed};
#[cfg(feature = "train")]
pub use rule::FusedRule;
