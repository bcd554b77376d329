//! Hanging adapters on a model, and taking them off again.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use vlm_nn::adapter::{self, Adapters, ByPath, Named, Part, Ranks};
use vlm_nn::four_bit::Packed;
use vlm_nn::params::{self, PathStack};

use crate::site::{Names, found};
use crate::whole::Whole;
use crate::{AnyMethod, Beside, Error, Site, Targets, Weight};

/// An adapter that hangs on a model.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Its name among those of the model.
    pub name: String,
    /// What it is.
    pub method: AnyMethod,
    /// What was asked for.
    pub targets: Targets,
    /// Where it hangs.
    pub sites: Vec<Site>,
    /// What else of the model was asked to train.
    pub beside: Beside,
    /// The tensors of that.
    pub whole: Vec<Whole>,
}

/// Hangs an adapter on a model, which says what it said before if the method starts without effect.
/// From now on, only the adapter trains. `targets` are the method's own if not given.
///
/// # Errors
/// If the settings make no sense or do not fit the model, nothing fits the targets, or the model has
/// an adapter of that name.
pub fn attach<M: Module>(
    model: M,
    name: &str,
    method: &AnyMethod,
    targets: Option<&Targets>,
    names: &Names<'_>,
    seed: u64,
) -> Result<(M, Adapter), Error> {
    attach_with(model, name, method, targets, &Beside::default(), names, seed)
}

/// The same with tensors of the model itself that train beside the adapter.
///
/// # Errors
/// As [`attach`]; if the model has no such tensors, or the method nothing beside it.
pub fn attach_with<M: Module>(
    model: M,
    name: &str,
    method: &AnyMethod,
    targets: Option<&Targets>,
    beside: &Beside,
    names: &Names<'_>,
    seed: u64,
) -> Result<(M, Adapter), Error> {
    method.get().check()?;
    beside.check(method)?;
    let mut all = found(&model, method.get().hook(), names);
    all.retain(|site| !beside.saves(&site.module));
    let targets = targets.cloned().unwrap_or_else(|| method.get().targets(&all));
    let sites = targets.choose(&all)?;
    method.get().fits(&sites, &all)?;
    let weights = weights(&model, &sites);
    let mut parts = Vec::new();
    for site in &sites {
        let part = method.get().part(site, &weights[&site.path], seed)?;
        parts.push((site.path.clone(), part));
    }
    let whole = beside.chosen(&model, &sites, names)?;
    let (name, method, beside) = (name.to_owned(), method.clone(), beside.clone());
    let adapter = Adapter { name, method, targets, sites, beside, whole };
    Ok((hung(model, &adapter, parts)?, adapter))
}

/// Hangs finished parts on a model; from now on, only they train.
pub(crate) fn hung<M: Module>(
    model: M,
    adapter: &Adapter,
    parts: Vec<(String, Part)>,
) -> Result<M, Error> {
    let (model, mut all) = adapter::take(model);
    let there = names_of(&all);
    if there.contains(&adapter.name) {
        return Err(Error::Name { name: adapter.name.clone(), there: true, has: there });
    }
    for (path, part) in parts {
        let named = Named { name: adapter.name.clone(), active: true, part };
        all.entry(path).or_insert_with(bare).parts.push(named);
    }
    Ok(only_training(adapter::put(model, all.clone()), &all, adapter))
}

impl Adapter {
    /// Factors on the learning rate, by the beginnings of the paths of this adapter's parameters on a
    /// model: those that are not 1.
    pub fn rates<M: Module>(&self, model: &M) -> Vec<(String, f64)> {
        params::list(model)
            .into_iter()
            .filter(|param| param.trainable && param.path.contains(".adapters."))
            .filter_map(|param| {
                let rate = self.method.get().rate(param.path.rsplit('.').next()?);
                (rate != 1.0).then_some((param.path, rate))
            })
            .collect()
    }
}

/// Locks all of a model but what an adapter on it trains.
///
/// # Errors
/// [`Error::Name`] if it is not on the model.
pub fn train_only<M: Module>(model: M, adapter: &Adapter) -> Result<M, Error> {
    let all = adapter::all(&model);
    expect(&all, &adapter.name)?;
    Ok(only_training(model, &all, adapter))
}

fn only_training<M: Module>(model: M, all: &ByPath, adapter: &Adapter) -> M {
    let mine: BTreeSet<String> = all
        .iter()
        .flat_map(|(path, adapters)| {
            let named = adapters.parts.iter().enumerate();
            named.filter(|(_, named)| named.name == adapter.name).map(move |(i, _)| place(path, i))
        })
        .collect();
    params::set_trainable(model, &|path| {
        if adapter.whole.iter().any(|whole| whole.path == path) {
            return true;
        }
        let Some((part, param)) = path.rsplit_once('.') else { return false };
        mine.iter().any(|place| part.starts_with(place.as_str()))
            && adapter.method.get().trains(param)
    })
}

/// The beginning of the paths of a part's parameters.
fn place(weight: &str, index: usize) -> String {
    format!("{weight}.adapters.parts.{index}.")
}

fn bare() -> Adapters {
    Adapters { parts: Vec::new(), packed: None }
}

/// Whether a weight would be the same without.
fn is_bare(adapters: &Adapters) -> bool {
    adapters.parts.is_empty() && adapters.packed.is_none()
}

/// The names of the adapters that hang on a model.
pub fn attached<M: Module>(model: &M) -> Vec<String> {
    names_of(&adapter::all(model))
}

fn names_of(all: &ByPath) -> Vec<String> {
    let names: BTreeSet<String> =
        all.values().flat_map(|a| a.parts.iter().map(|named| named.name.clone())).collect();
    names.into_iter().collect()
}

fn expect(all: &ByPath, name: &str) -> Result<(), Error> {
    let has = names_of(all);
    match has.iter().any(|known| known == name) {
        true => Ok(()),
        false => Err(Error::Name { name: name.to_owned(), there: false, has }),
    }
}

/// Takes an adapter off a model, which then is as if there had never been one.
///
/// # Errors
/// [`Error::Name`] if it has none of that name.
pub fn detach<M: Module>(model: M, name: &str) -> Result<M, Error> {
    let (model, mut all) = adapter::take(model);
    expect(&all, name)?;
    for adapters in all.values_mut() {
        adapters.parts.retain(|named| named.name != name);
    }
    all.retain(|_, adapters| !is_bare(adapters));
    Ok(adapter::put(model, all))
}

/// Lets those of a model's adapters count that are named, in the order in which they were hung on it.
///
/// # Errors
/// [`Error::Name`] if it has none of one of the names.
pub fn switch<M: Module>(model: M, names: &[&str]) -> Result<M, Error> {
    let (model, mut all) = adapter::take(model);
    for name in names {
        expect(&all, name)?;
    }
    for named in all.values_mut().flat_map(|adapters| &mut adapters.parts) {
        named.active = names.contains(&named.name.as_str());
    }
    Ok(adapter::put(model, all))
}

/// Lets only the first ranks of an adapter's terms count: what DyLoRA learns to bear, and LoRA does not.
///
/// # Errors
/// [`Error::Name`] if it is not on the model, [`Error::Setting`] if it has no ranks.
pub fn use_ranks<M: Module>(model: M, adapter: &Adapter, ranks: usize) -> Result<M, Error> {
    let (model, mut all) = adapter::take(model);
    expect(&all, &adapter.name)?;
    let first = Ranks::default();
    first.use_first(ranks);
    for named in all.values_mut().flat_map(|adapters| &mut adapters.parts) {
        match &mut named.part {
            _ if named.name != adapter.name => {}
            Part::LowRank(part) => part.ranks = Some(first.clone()),
            _ => {
                let reason = format!("{} has no ranks", adapter.method.get().name());
                return Err(Error::Setting(reason));
            }
        }
    }
    Ok(adapter::put(model, all))
}

/// Lets the weights of a model take up an adapter for good; it costs nothing from then on.
///
/// # Errors
/// [`Error::Name`] if it has none of that name, [`Error::Unmergeable`] if it is no change of weights.
pub fn merge<M: Module>(model: M, adapter: &Adapter) -> Result<M, Error> {
    merge_weighted(model, &[(adapter, 1.0)])
}

/// The same with several adapters, of each so much as its number says: a weight becomes its old value and
/// the sum of what each would change of it, times that number.
///
/// # Errors
/// As [`merge`].
pub fn merge_weighted<M: Module>(model: M, chosen: &[(&Adapter, f64)]) -> Result<M, Error> {
    let (model, mut all) = adapter::take(model);
    for (adapter, _) in chosen {
        expect(&all, &adapter.name)?;
    }
    let mut merged: BTreeMap<String, Merged> = BTreeMap::new();
    for (path, adapters) in &mut all {
        let mut parts = Vec::new();
        for named in std::mem::take(&mut adapters.parts) {
            let Some((adapter, share)) = chosen.iter().find(|(a, _)| a.name == named.name) else {
                adapters.parts.push(named);
                continue;
            };
            if !named.part.can_merge() {
                let method = adapter.method.get().name();
                return Err(Error::Unmergeable { name: adapter.name.clone(), method });
            }
            parts.push((named.part, *share));
        }
        if !parts.is_empty() {
            // Four bits cannot take up a change: the weight is whole from then on.
            merged.insert(path.clone(), Merged { parts, packed: adapters.packed.take() });
        }
    }
    all.retain(|_, adapters| !is_bare(adapters));
    let model = model.map(&mut Merger { stack: PathStack::default(), merged: &merged });
    Ok(adapter::put(model, all))
}

/// Parts that a weight takes up, how much of each, and that weight, if it had four bits.
struct Merged {
    parts: Vec<(Part, f64)>,
    packed: Option<Packed>,
}

impl Merged {
    /// What becomes of a value that each part turns into another, if it does.
    fn sum<const D: usize>(
        &self,
        old: Tensor<D>,
        change: impl Fn(&Part, Tensor<D>) -> Option<Tensor<D>>,
    ) -> Tensor<D> {
        if let [(part, 1.0)] = &self.parts[..] {
            return change(part, old.clone()).unwrap_or(old);
        }
        let changes = self
            .parts
            .iter()
            .filter_map(|(part, share)| Some((change(part, old.clone())? - old.clone()) * *share));
        changes.fold(old.clone(), |sum, change| sum + change)
    }
}

/// Changes weights, and the biases beside them, as parts say.
struct Merger<'a> {
    stack: PathStack,
    merged: &'a BTreeMap<String, Merged>,
}

impl ModuleMapper for Merger<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.stack.push(name);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.stack.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.stack.path();
        if let Some(merged) = self.merged.get(&path) {
            return changed(param, |weight: Tensor<D>| {
                let weight = match &merged.packed {
                    Some(packed) => packed.values(),
                    None => {
                        let dims = weight.dims();
                        weight.reshape([dims[0], dims[D - 1]])
                    }
                };
                let mut shape = [1; D];
                shape[..2].copy_from_slice(&weight.dims());
                merged.sum(weight, |part, weight| Some(part.merged(weight))).reshape(shape)
            });
        }
        let beside = path.strip_suffix(".bias").map(|map| format!("{map}.weight"));
        match beside.and_then(|weight| self.merged.get(&weight)) {
            Some(merged) => changed(param, |bias: Tensor<D>| {
                merged.sum(bias, |part, bias| {
                    let dims = bias.dims();
                    Some(bias * part.output_factors()?.reshape(dims))
                })
            }),
            None => param,
        }
    }
}

/// The parameter with another value, training or not as before.
fn changed<const D: usize>(
    param: Param<Tensor<D>>,
    change: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    let trains = param.is_require_grad();
    param.map(|value| change(value).detach().set_require_grad(trains))
}

/// The weights at the sites; none of them is copied.
fn weights<M: Module>(model: &M, sites: &[Site]) -> BTreeMap<String, Weight> {
    struct Finder<'a> {
        stack: PathStack,
        wanted: BTreeSet<&'a str>,
        packed: ByPath,
        found: BTreeMap<String, Weight>,
    }
    impl ModuleVisitor for Finder<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.stack.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.stack.path();
            if !self.wanted.contains(path.as_str()) {
                return;
            }
            let any: Box<dyn Any> = Box::new(param.clone());
            if let Ok(matrix) = any.downcast::<Param<Tensor<2>>>() {
                let packed = self.packed.remove(&path).and_then(|adapters| adapters.packed);
                self.found.insert(path, Weight { param: *matrix, packed });
            }
        }
    }
    let wanted = sites.iter().map(|site| site.path.as_str()).collect();
    let packed = adapter::all(model);
    let stack = PathStack::default();
    let mut finder = Finder { stack, wanted, packed, found: BTreeMap::new() };
    model.visit(&mut finder);
    finder.found
}
