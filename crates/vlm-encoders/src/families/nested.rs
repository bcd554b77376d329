//! Towers that stand in a larger folder, as `vision_config` and `text_config` of a generative model.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use vlm_store::TensorFiles;

use super::fields::Fields;
use super::names::Names;
use super::{Family, Spec, known, parser, siglip};
use crate::Blueprint;
use crate::checkpoint::Named;
use crate::towers::{TextSpec, VisionSpec};

/// What larger models write into the section of an image tower and what is none of its business.
const OF_VISION: &[&str] = &[
    "max_image_size",
    "num_image_tokens",
    "projection_dim",
    "projector_hidden_act",
    "size",
    "use_base_siglip",
    "vocab_size",
];
/// Likewise of a text tower; remains of how SmolVLM was trained.
const OF_TEXT: &[&str] = &[
    "_flash_attn_2_enabled",
    "neftune_noise_alpha",
    "num_image_tokens",
    "perceiver_config",
    "pixel_shuffle_factor",
    "transformers.js_config",
];

/// A tower whose configuration is a section and whose tensors have a common beginning.
#[derive(Clone, Debug)]
pub struct Nested<S> {
    /// The shape.
    pub spec: S,
    names: Names,
    prefix: String,
    /// Beginning of the head's names, which may lie elsewhere.
    head: String,
    carried: &'static [&'static str],
    surplus: &'static [&'static str],
}

impl<S> Nested<S> {
    /// A tower that has been opened from a folder of its own, put into a larger one, where its
    /// tensors begin with `prefix` and those of its head with `head`.
    pub fn of(plan: &Blueprint<S>, prefix: &str, head: &str) -> Self
    where
        S: Clone,
    {
        let (mut names, carried, surplus) = plan.tables();
        // Of the folder's class, which is not part of the larger one.
        for root in names.roots.iter_mut().filter(|root| *root != "vision_model.") {
            root.clear();
        }
        let family = (names, Carried { carried, surplus });
        Nested::new(plan.spec.clone(), family, prefix, head)
    }

    fn new(spec: S, family: (Names, Carried), prefix: &str, head: &str) -> Self {
        let (names, Carried { carried, surplus }) = family;
        Nested { spec, names, prefix: prefix.into(), head: head.into(), carried, surplus }
    }

    /// The name and layout in the larger file of the parameter at `path`, which begins with
    /// `vision.` or `text.`.
    pub fn named(&self, path: &str, rank: usize) -> Named {
        let mut named = self.names.named(path, rank);
        named.name = match named.name.strip_prefix("lm_head.") {
            Some(rest) if path.starts_with("text.head.") => format!("{}{rest}", self.head),
            _ => format!("{}{}", self.prefix, named.name),
        };
        named
    }

    /// Whether a tensor of the larger file belongs to a head of the tower that is not computed; it
    /// is kept and written back.
    pub fn carries(&self, name: &str) -> bool {
        let within = name.strip_prefix(&self.prefix);
        within.is_some_and(|name| self.carried.iter().any(|start| name.starts_with(start)))
    }

    /// Whether a tensor stands for nothing: it is computed again, or equal to another.
    pub fn spares(&self, name: &str) -> bool {
        let mine = name.starts_with(&self.prefix) || name.starts_with(&self.head);
        mine && self.surplus.iter().any(|end| name.ends_with(end))
    }
}

/// Tensors of a file that are no parameters here.
struct Carried {
    carried: &'static [&'static str],
    surplus: &'static [&'static str],
}

impl Nested<VisionSpec> {
    /// The image tower of a section, whose `model_type` is `usual` where it names none. Its
    /// tensors begin with `prefix`.
    ///
    /// # Errors
    /// What the section says that is not supported, in a sentence that names the field.
    pub fn vision(
        mut section: Map<String, Value>,
        usual: &str,
        files: &TensorFiles,
        prefix: &str,
    ) -> Result<Self, String> {
        section.retain(|key, _| !OF_VISION.contains(&key.as_str()));
        let view = view(files, prefix, "")?;
        let family = parse(section, "vision_config", usual, &view)?;
        let Family { spec, names, carried, surplus } = family;
        let Spec::Vision(spec, None) = spec else {
            return Err("vision_config.model_type is not that of an image tower alone".into());
        };
        check_layers("vision_config", spec.layers, &names, 0, &view)?;
        Ok(Nested::new(spec, (names, Carried { carried, surplus }), prefix, prefix))
    }

    /// The image tower of Idefics 3 and SmolVLM: SigLIP's, with positions that are found anew for
    /// each size; `shifted` as in [`Places::Buckets`](crate::Places::Buckets).
    ///
    /// # Errors
    /// As [`vision`](Self::vision).
    pub fn idefics3(
        mut section: Map<String, Value>,
        shifted: bool,
        files: &TensorFiles,
        prefix: &str,
    ) -> Result<Self, String> {
        section.retain(|key, _| !OF_VISION.contains(&key.as_str()));
        let view = view(files, prefix, "")?;
        let place = "vision_config";
        let family = siglip::idefics3(Fields::new(section, "vision_config."), shifted);
        let Family { spec, names, carried, surplus } = family.map_err(|e| placed(place, e))?;
        let Spec::Vision(spec, _) = spec else { unreachable!("an image tower's parser") };
        check_layers(place, spec.layers, &names, 0, &view)?;
        Ok(Nested::new(spec, (names, Carried { carried, surplus }), prefix, prefix))
    }
}

impl Nested<TextSpec> {
    /// The text tower of a section, whose `model_type` is `usual` where it names none. Its tensors
    /// begin with `prefix`, those of its head with `head`.
    ///
    /// # Errors
    /// What the section says that is not supported, in a sentence that names the field.
    pub fn text(
        mut section: Map<String, Value>,
        usual: &str,
        files: &TensorFiles,
        prefix: &str,
        head: &str,
    ) -> Result<Self, String> {
        section.retain(|key, _| !OF_TEXT.contains(&key.as_str()));
        let mut fields = Fields::new(section, "text_config.");
        // Parts of Idefics 2 that no published model has switched on.
        fields.only("use_resampler", false)?;
        fields.only("qk_layer_norms", false)?;
        let view = view(files, prefix, head)?;
        let family = parse(fields.into_map(), "text_config", usual, &view)?;
        let Family { spec, names, carried, surplus } = family;
        let Spec::Text(spec, None) = spec else {
            return Err("text_config.model_type is not that of a text tower alone".into());
        };
        check_layers("text_config", spec.blocks.len(), &names, 1, &view)?;
        Ok(Nested::new(spec, (names, Carried { carried, surplus }), prefix, head))
    }
}

/// The tensors of a tower under the names that they have in a folder of its own.
fn view(files: &TensorFiles, prefix: &str, head: &str) -> Result<TensorFiles, String> {
    let name = |name: &str| {
        if let Some(rest) = name.strip_prefix(head).filter(|_| !head.is_empty()) {
            return Some(format!("lm_head.{rest}"));
        }
        name.strip_prefix(prefix).map(str::to_owned)
    };
    files.renamed(&name).map_err(|e| e.to_string())
}

fn parse(
    mut section: Map<String, Value>,
    place: &str,
    usual: &str,
    files: &TensorFiles,
) -> Result<Family, String> {
    let kind = match section.get("model_type") {
        None | Some(Value::Null) => usual.to_owned(),
        Some(Value::String(kind)) => kind.clone(),
        Some(other) => return Err(format!("{place}.model_type is {other}; it must be a name")),
    };
    let Some(parse) = parser(&kind) else {
        return Err(format!(
            "{place}.model_type `{kind}` is not supported; supported: {}",
            known()
        ));
    };
    section.insert("model_type".into(), Value::String(kind));
    parse(Fields::new(section, &format!("{place}.")), files).map_err(|e| placed(place, e))
}

/// A complaint that says where, also where the parser does not.
fn placed(place: &str, reason: String) -> String {
    if reason.contains(&format!("{place}.")) { reason } else { format!("{place}: {reason}") }
}

/// Compares a number of layers with the file's before a module of that many is built. A few too
/// many are let pass: their tensors are then listed as missing.
fn check_layers(
    place: &str,
    layers: usize,
    names: &Names,
    tower: usize,
    files: &TensorFiles,
) -> Result<(), String> {
    let prefix = names.before_blocks(tower);
    let numbers = files.names().filter_map(|name| name.strip_prefix(&prefix)?.split('.').next());
    let found = numbers.collect::<BTreeSet<_>>().len();
    if layers <= found + 4 {
        return Ok(());
    }
    let file = files.path().display();
    Err(format!("{place} wants {layers} layers, but {file} has {found}"))
}
