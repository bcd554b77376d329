//! The model families: what `config.json` says, as choices of the towers and a table of names.

mod bert;
mod clip;
mod fields;
mod gemma;
mod llama;
mod names;
mod nested;
mod open_clip;
mod rope;
mod siglip;
mod vit;

pub(crate) use clip::{clip_names, clip_spec};
pub use fields::Fields;
pub(crate) use fields::HARMLESS;
pub(crate) use names::Names;
pub use nested::Nested;

use serde_json::{Map, Value};
use vlm_store::TensorFiles;

use crate::towers::{TextSpec, VisionSpec};

/// What a folder holds.
#[derive(Clone, Debug, PartialEq)]
// One or two of these are ever held.
#[allow(clippy::large_enum_variant)]
pub enum Spec {
    /// An image tower, and the width of its projection if it has one.
    Vision(VisionSpec, Option<usize>),
    /// A text tower, likewise.
    Text(TextSpec, Option<usize>),
    /// Both, meeting in one space.
    Dual(DualSpec),
}

/// The shape of a dual encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DualSpec {
    /// The image tower.
    pub vision: VisionSpec,
    /// The text tower.
    pub text: TextSpec,
    /// Dimensions of the shared space.
    pub dim: usize,
    /// Whether each tower's pooled state is mapped to the space; otherwise it lies in it.
    pub projections: bool,
    /// Whether logits have a bias (SigLIP).
    pub bias: bool,
}

/// A config that has been understood.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    pub spec: Spec,
    pub names: Names,
    /// Beginnings of names in the file that belong to heads which are not computed; their
    /// tensors are kept and written back.
    pub carried: &'static [&'static str],
    /// Ends or beginnings of names that stand for nothing: computed again, or equal to another.
    pub surplus: &'static [&'static str],
}

type Parse = fn(Fields, &TensorFiles) -> Result<Family, String>;

/// `model_type` and what understands it.
const FAMILIES: &[(&str, Parse)] = &[
    ("bert", bert::parse),
    ("clip", clip::dual),
    ("clip_text_model", clip::text),
    ("clip_vision_model", clip::vision),
    ("dinov2", vit::dinov2),
    ("dinov2_with_registers", vit::dinov2_registers),
    ("gemma", gemma::gemma),
    ("gemma2", gemma::gemma2),
    ("gemma3_text", gemma::gemma3),
    ("llama", llama::llama),
    ("qwen2", llama::qwen2),
    ("qwen3", llama::qwen3),
    ("siglip", siglip::dual),
    ("siglip_text_model", siglip::text),
    ("siglip_vision_model", siglip::vision),
    ("siglip2", siglip::dual2),
    ("siglip2_text_model", siglip::text),
    ("siglip2_vision_model", siglip::vision2),
    ("vit", vit::vit),
];

/// The names that are understood.
fn known() -> String {
    FAMILIES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn parser(kind: &str) -> Option<Parse> {
    FAMILIES.iter().find(|(name, _)| *name == kind).map(|(_, parse)| *parse)
}

/// Understands a `config.json`; which optional tensors there are is seen in the files.
pub(crate) fn parse(map: Map<String, Value>, files: &TensorFiles) -> Result<Family, String> {
    let kind = match map.get("model_type") {
        Some(Value::String(kind)) => kind.clone(),
        _ => return Err(format!("there is no model_type; supported: {}", known())),
    };
    let Some(parse) = parser(&kind) else {
        return Err(format!("model_type `{kind}` is not supported; supported: {}", known()));
    };
    parse(Fields::new(map, ""), files)
}

pub(crate) use open_clip::parse as parse_open_clip;

/// The beginning of all names of a file, if any name begins so.
fn root(files: &TensorFiles, root: &str) -> String {
    if files.names().any(|name| name.starts_with(root)) { root.to_owned() } else { String::new() }
}
