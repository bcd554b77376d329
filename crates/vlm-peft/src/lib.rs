//! Parameter-efficient fine-tuning of any Burn module.
//!
//! An adapter hangs on the linear maps of a model: [`attach`] puts it there and locks everything else,
//! [`switch`] lets some of several count, [`merge`] makes one part of the weights, [`detach`] takes
//! it off. [`save`] and [`load`] speak peft's files. The layers of `vlm-nn` compute an adapter in
//! factors; layers of `burn::nn` see the changed weight, which is built anew in each pass.
//!
//! | method | what hangs on a map | choose it |
//! |---|---|---|
//! | [`Lora`] | `s A B`, thin matrices | first |
//! | [`LoraPlus`] | the same, B learns faster | for wide models |
//! | [`LoraFa`] | the same, A stays | where activations fill the memory |
//! | [`DyLora`] | the same, good at every rank | where the rank is not known |
//! | [`Ia3`] | factors | where adapters are many and must be tiny |
//! | [`Bottleneck`] | a narrow layer | where LoRA is too weak |
//! | [`Eas`] | a way past some attentions | where answers have to come fast |
//! | [`Memvp`] | pictures beside the feed-forwards | where pictures take most of the tokens |
//! | [`Prefix`] | keys and values in front | where no map may change |
//! | [`Prompt`] | tokens in front, on the table of tokens | where an adapter is a few kilobytes |
//!
//! Models of `burn::nn` layers are adapted by the same calls: `examples/foreign.rs`.
//!
//! Burn has a LoRA of its own (`Module::apply_lora`). It is enough where one adapter is to be trained
//! and merged on weights that fit twice into memory: it builds the changed weight and a gradient of
//! its size in each step, and knows no files of peft.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use vlm_nn::{BlockConfig, Stack, params};
//! use vlm_peft::{AnyMethod, Lora, Targets, attach, merge, own_names};
//!
//! let device = Device::flex().autodiff();
//! let stack = Stack::new(&BlockConfig { width: 32, heads: 4, ..Default::default() }, 2, &device);
//! let stack = params::initialize(stack, 7, &|_, _| params::Init::Normal(0.02));
//! let lora = AnyMethod::Lora(Lora { r: 4, ..Default::default() });
//! let targets = Targets::of(&["attention.q", "attention.v"]);
//! let (stack, adapter) = attach(stack, "mine", &lora, Some(&targets), &own_names, 1)?;
//! let x = Tensor::<3>::ones([1, 5, 32], &device);
//! let grads = stack.forward(x, None).sum().backward(); // for the adapter alone
//! let stack = merge(stack, &adapter)?; // once it is trained
//! # Ok::<(), vlm_peft::Error>(())
//! ```
#![warn(missing_docs)]

mod attach;
mod bottleneck;
mod config_file;
#[cfg(feature = "train")]
mod correction;
mod cost;
mod eas;
mod error;
mod files;
mod front;
mod ia3;
mod lora;
mod lora_kin;
mod memvp;
mod method;
mod site;
mod target;
#[cfg(feature = "train")]
mod task;
mod whole;

pub use attach::{
    Adapter, attach, attach_with, attached, detach, merge, merge_weighted, switch, train_only,
    use_ranks,
};
pub use bottleneck::{Bottleneck, Form, Start};
pub use cost::{Cost, Load, Trained, cost};
pub use eas::{Bandit, Eas, Search, fold};
pub use error::Error;
pub use files::{Base, Shape, load, save};
pub use front::{Prefix, PrefixStart, Prompt, PromptStart};
pub use ia3::Ia3;
pub use lora::Lora;
pub use lora_kin::{DyLora, LoraFa, LoraPlus};
pub use memvp::{Memvp, Sight};
pub use method::{AnyMethod, Hook, Method};
pub use site::{Names, Site, Weight, own_names, sites};
pub use target::Targets;
#[cfg(feature = "train")]
pub use task::Adapted;
pub use whole::{Beside, Biases, Whole};
