//! Tensors of the model itself that train beside an adapter.

use std::collections::BTreeSet;
use std::convert::Infallible;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use vlm_nn::{adapter, params};

use crate::site::{Names, found, own_names};
use crate::{Adapter, AnyMethod, Error, Hook, Site};

/// Which biases of the model train beside an adapter, as peft's `bias` says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Biases {
    /// None.
    #[default]
    None,
    /// Those of all layers.
    All,
    /// Those of the maps that the adapter hangs on.
    LoraOnly,
}

/// What of the model itself trains whole beside an adapter, and is stored with it.
///
/// Choose it where something is new or has to move far: a fusion that was never trained, a norm, a head.
/// Such tensors change in the model: taking the adapter off leaves them as they are, unless
/// [`Adapter::put_back`] is called first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Biases.
    pub bias: Biases,
    /// Modules by the ends of their names in the reference, with all that is in them. No adapter
    /// hangs on them.
    pub modules_to_save: Vec<String>,
}

/// A tensor that trains whole.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Its path.
    pub path: String,
    /// Its name in the adapter's file, but for what all begin with.
    pub name: String,
    /// Whether it lies there the other way round.
    turned: bool,
    /// What it was.
    before: TensorData,
}

impl Beside {
    fn is_empty(&self) -> bool {
        *self == Beside::default()
    }

    /// # Errors
    /// [`Error::Setting`] if peft has no such thing beside this method.
    pub(crate) fn check(&self, method: &AnyMethod) -> Result<(), Error> {
        let wrong = |what: &str| {
            let name = method.get().name();
            Err(Error::Setting(format!("{what} is for other methods than {name}")))
        };
        match method {
            AnyMethod::Prefix(_) | AnyMethod::Prompt(_) if !self.is_empty() => {
                wrong(if self.bias == Biases::None { "modules_to_save" } else { "bias" })
            }
            AnyMethod::Ia3(_) | AnyMethod::Bottleneck(_) if self.bias != Biases::None => {
                wrong("bias")
            }
            _ => Ok(()),
        }
    }

    /// Whether a module of the reference is saved whole, alone or with one that it is in.
    pub(crate) fn saves(&self, module: &str) -> bool {
        self.modules_to_save.iter().any(|entry| is_inside(module, entry))
    }

    /// The tensors, beside an adapter on these maps.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such module, or its weights have four bits.
    pub(crate) fn chosen<M: Module>(
        &self,
        model: &M,
        sites: &[Site],
        names: &Names<'_>,
    ) -> Result<Vec<Whole>, Error> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let maps: BTreeSet<String> =
            found(model, Hook::Maps, &own_names).into_iter().map(|site| site.path).collect();
        let four_bit = adapter::all(model);
        let four_bit = |path: &str| four_bit.get(path).is_some_and(|hung| hung.packed.is_some());
        let (mut chosen, mut used) = (Vec::new(), BTreeSet::new());
        for param in params::list(model) {
            let path = param.path;
            if adapter::is_inside(&path) {
                continue;
            }
            let Some(name) = names(&path, param.shape.len()) else { continue };
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            used.extend(self.modules_to_save.iter().filter(|entry| is_inside(module, entry)));
            let saved = self.saves(module);
            let adapted = sites.iter().any(|site| {
                let weight = path.strip_suffix(".bias").map(|map| format!("{map}.weight"));
                weight.as_ref() == Some(&site.path)
            });
            let bias = match self.bias {
                Biases::None => false,
                Biases::All => name.contains("bias"),
                Biases::LoraOnly => adapted,
            };
            if !(saved || bias) {
                continue;
            }
            if four_bit(&path) {
                let reason =
                    format!("modules_to_save: `{module}` has four bits, which do not train");
                return Err(Error::Setting(reason));
            }
            let name = match name.rsplit_once('.') {
                // What peft calls a map that an adapter hangs on.
                Some((module, last)) if adapted => format!("{module}.base_layer.{last}"),
                _ => name,
            };
            let (turned, before) = (maps.contains(&path), params::read_one(model, &path));
            chosen.push(Whole { path, name, turned, before });
        }
        match self.modules_to_save.iter().find(|entry| !used.contains(entry)) {
            None => Ok(chosen),
            Some(entry) => {
                let reason = format!("modules_to_save: the model has no module `{entry}`");
                Err(Error::Setting(reason))
            }
        }
    }
}

/// Whether the name of a module, or of one that it is in, ends so. As peft has it, `norm` is every module
/// whose name ends in these letters.
fn is_inside(module: &str, entry: &str) -> bool {
    let ends = module.match_indices('.').map(|(end, _)| end).chain([module.len()]);
    !entry.is_empty() && ends.into_iter().any(|end| module[..end].ends_with(entry))
}

impl Whole {
    /// Its shape in the file.
    pub(crate) fn file_shape(&self) -> Vec<usize> {
        let shape = self.before.shape().to_vec();
        if self.turned { shape.into_iter().rev().collect() } else { shape }
    }

    /// Values as they lie here turned to how they lie in the file, or back.
    pub fn other_way(&self, data: TensorData) -> TensorData {
        if !self.turned {
            return data;
        }
        Tensor::<2>::from_data(data, &Device::default()).transpose().into_data()
    }
}

/// The model with other values of whole tensors.
pub(crate) fn filled<M: Module>(
    model: M,
    whole: &[Whole],
    mut value: impl FnMut(&Whole) -> Result<TensorData, Error>,
) -> Result<M, Error> {
    if whole.is_empty() {
        return Ok(model);
    }
    params::replace(model, &mut |path, _| {
        whole.iter().find(|whole| whole.path == path).map(&mut value).transpose()
    })
}

impl Adapter {
    /// Gives tensors that trained whole beside the adapter the values back that they had when it was
    /// attached or loaded.
    pub fn put_back<M: Module>(&self, model: M) -> M {
        let before = |path: &str| {
            let whole = self.whole.iter().find(|whole| whole.path == path);
            Ok::<_, Infallible>(whole.map(|whole| whole.before.clone()))
        };
        match params::replace(model, &mut |path, _| before(path)) {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }
}
