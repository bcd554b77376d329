//! The linear maps of a model.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use vlm_nn::adapter::{self, ByPath};
use vlm_nn::four_bit::Packed;
use vlm_nn::params::{self, Init, PathStack};

use crate::Hook;

/// A linear map, or a table of tokens, that something can be hung on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The path of its weight here, such as `text.stack.blocks.0.attention.q.weight`.
    pub path: String,
    /// The name of its module in the reference, such as `model.layers.0.self_attn.q_proj`: what peft
    /// calls it.
    pub module: String,
    /// Values that come in; of a table, its tokens.
    pub input: usize,
    /// Values that come out.
    pub output: usize,
    /// Values of the rows that an attention looks at whose queries it makes; otherwise as `input`.
    pub context: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

/// The weight at a site, as it is without adapters.
pub struct Weight {
    pub(crate) param: Param<Tensor<2>>,
    pub(crate) packed: Option<Packed>,
}

impl Weight {
    /// Where it is.
    pub fn device(&self) -> Device {
        self.param.lazy_device()
    }

    /// `[in, out]`; of a weight of four bits, a whole copy.
    pub fn values(&self) -> Tensor<2> {
        match &self.packed {
            Some(packed) => packed.values(),
            None => self.param.base(),
        }
    }
}

impl Site {
    /// The start of a parameter of that name beside this map's weight.
    pub(crate) fn start<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        init: Init,
        seed: u64,
        device: &Device,
    ) -> Param<Tensor<D>> {
        let path = format!("{}.{name}", self.path);
        Param::from_data(params::drawn(init, &shape, seed, &path), device)
    }
}

/// What the reference calls the parameter at a path that has so many dimensions; `None` where it has
/// no such parameter by itself, since several lie in one tensor there.
pub type Names<'a> = dyn Fn(&str, usize) -> Option<String> + 'a;

/// Names that are the same here and there: for models that have no reference.
pub fn own_names(path: &str, _: usize) -> Option<String> {
    Some(path.to_owned())
}

/// All linear maps of a model, in the order of its fields: matrices called `weight` of structs called
/// `Linear`, of this project or of Burn.
pub fn sites<M: Module>(model: &M, names: &Names<'_>) -> Vec<Site> {
    found(model, Hook::Maps, names)
}

/// All there is on a model that a method of this kind can hang on.
pub(crate) fn found<M: Module>(model: &M, hook: Hook, names: &Names<'_>) -> Vec<Site> {
    let mut finder = Finder {
        hook,
        stack: PathStack::default(),
        kinds: Vec::new(),
        names,
        packed: adapter::all(model),
        found: Vec::new(),
        keys: BTreeMap::new(),
    };
    model.visit(&mut finder);
    let Finder { mut found, keys, .. } = finder;
    for site in &mut found {
        let attention = site.path.strip_suffix(".q.weight");
        site.context = attention.and_then(|path| keys.get(path).copied()).unwrap_or(site.input);
    }
    found
}

struct Finder<'a> {
    hook: Hook,
    stack: PathStack,
    kinds: Vec<String>,
    names: &'a Names<'a>,
    packed: ByPath,
    found: Vec<Site>,
    /// What comes into the maps for keys, by the paths of their attentions.
    keys: BTreeMap<String, usize>,
}

impl Finder<'_> {
    /// Whether the parameter at a path is one that is looked for.
    fn is_wanted(&self, path: &str) -> bool {
        let kind = self.kinds.last().map(String::as_str);
        let last = path.rsplit('.').next();
        let is_map = kind == Some("Struct:Linear") && last == Some("weight");
        let is_table = kind == Some("Struct:TextTower") && last == Some("tokens");
        let of_tower = path.starts_with("vision.") && path.ends_with(".feed_forward.up.weight");
        match self.hook {
            Hook::Maps => is_map,
            Hook::Tokens => is_table,
            Hook::Sight => is_table || is_map && of_tower,
        }
    }
}

impl ModuleVisitor for Finder<'_> {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.stack.push(name);
        self.kinds.push(kind.to_owned());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.stack.pop();
        self.kinds.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.stack.path();
        if let Some(map) = path.strip_suffix(".bias")
            && let Some(last) = self.found.last_mut()
            && last.path.strip_suffix(".weight") == Some(map)
        {
            last.bias = true;
            return;
        }
        let packed = self.packed.get(&path).and_then(|adapters| adapters.packed.as_ref());
        let shape =
            packed.map_or_else(|| param.lazy_shape().to_vec(), |packed| packed.dims().to_vec());
        let [input, output] = shape[..] else { return };
        if let Some(attention) = path.strip_suffix(".k.weight") {
            self.keys.insert(attention.to_owned(), input);
        }
        if !self.is_wanted(&path) {
            return;
        }
        let name = (self.names)(&path, D);
        if let Some(module) = name.as_deref().and_then(|name| name.strip_suffix(".weight")) {
            let module = module.to_owned();
            self.found.push(Site { path, module, input, output, context: input, bias: false });
        }
    }
}
