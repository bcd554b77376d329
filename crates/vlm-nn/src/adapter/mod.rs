//! What can be learned beside a weight while the weight itself stays as it is.
//!
//! An [`Adapters`] hangs on a weight through Burn's reparameterization: optimisers, records and
//! devices treat it like any other parameter. [`Linear`](crate::Linear) looks for it and computes in
//! factors; a layer that knows nothing of it still sees the adapted weight through
//! [`Param::val`](burn::module::Param::val), built anew in each pass.
//!
//! Burn hangs a part on a weight and never lets go of it again. [`take`] and [`put`] do: take all
//! adapters off a model, change the list as you like, put it back.

mod bottleneck;
mod bypass;
mod low_rank;
mod memory;
mod rows;
mod scale;

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, Reparameterization, Reparameterizer};
use burn::tensor::{Distribution, Tensor};

pub use bottleneck::{Bottleneck, Place, around};
pub use bypass::{
    Bypass, Fold, Folded, Grouped, Map, NormOf, Past, Propagation, Skips, bypass, mean_of_shown,
};
pub use low_rank::{LowRank, Ranks, Scaling};
pub use memory::{Entries, Memory, memory};
pub use rows::{Rows, front, lead, put_in_front, seen_in_front};
pub use scale::{Scale, Side};

use crate::four_bit::{FourBit, Packed};
use crate::{ops, params};

/// One thing that is learned beside a weight `[in, out]`.
// There is one a weight, and it is moved when it is hung on alone.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Part {
    /// A product of two thin matrices that is added: LoRA and its kin.
    LowRank(LowRank),
    /// A factor for each input or output: (IA)³.
    Scale(Scale),
    /// A narrow layer in front, behind or beside: the adapters of LLM-Adapters.
    Bottleneck(Bottleneck),
    /// Rows in front of those that the matrix makes: prefix and prompt tuning.
    Rows(Rows),
    /// A way past an attention, on the map of its queries: efficient attention skipping.
    Bypass(Bypass),
    /// Rows beside those of feed-forwards, on the table of tokens: memory-space visual prompting.
    Memory(Memory),
}

/// A part with the name of the adapter that it belongs to.
#[derive(Module, Debug)]
pub struct Named {
    /// The adapter's name; parts of many weights share it.
    #[module(skip)]
    pub name: String,
    /// Whether it counts.
    #[module(skip)]
    pub active: bool,
    /// What it is.
    pub part: Part,
}

/// All that is learned beside one weight, in the order in which it takes effect.
#[derive(Module, Debug)]
pub struct Adapters {
    /// The parts.
    pub parts: Vec<Named>,
    /// The weight itself, where it has four bits; the parameter then holds a place only.
    #[module(skip)]
    pub packed: Option<Packed>,
}

thread_local! {
    /// Where [`take`] collects what it takes off.
    static TAKEN: RefCell<Option<Vec<Adapters>>> = const { RefCell::new(None) };
}

impl Reparameterization for Adapters {
    const NAME: &'static str = "adapters";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let taken = TAKEN.with_borrow_mut(|taken| taken.as_mut().map(|all| all.push(self.clone())));
        if taken.is_some() {
            return base;
        }
        let weight = match (&self.packed, &base.dims()[..]) {
            (Some(packed), _) => packed.values(),
            (None, [input, output]) => base.reshape([*input, *output]),
            (None, _) => panic!("adapters hang on matrices, not on tensors of {D} dimensions"),
        };
        let dims: [usize; 2] = weight.dims();
        let merged = self.active().into_iter().fold(weight, |weight, part| part.merged(weight));
        let mut shape = [1; D];
        shape[..2].copy_from_slice(&dims);
        merged.reshape(shape)
    }
}

/// The shape `[in, out]` of a weight, packed or not.
pub fn shape<const D: usize>(weight: &Param<Tensor<D>>) -> Vec<usize> {
    match weight.reparameterization::<Adapters>().and_then(|adapters| adapters.packed.as_ref()) {
        Some(packed) => packed.dims().to_vec(),
        None => weight.lazy_shape().to_vec(),
    }
}

/// A weight as it is without adapters, `[in, out]`; of a packed one, a whole copy.
pub fn plain(weight: &Param<Tensor<2>>) -> Tensor<2> {
    match weight.reparameterization::<Adapters>().and_then(|adapters| adapters.packed.as_ref()) {
        Some(packed) => packed.values(),
        None => weight.base(),
    }
}

impl Adapters {
    /// `[..., in]` to `[..., out]`: what the adapted map makes of `x`, without building its weight.
    pub fn forward<const D: usize>(
        &self,
        x: Tensor<D>,
        weight: &Param<Tensor<2>>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<D> {
        let mut dims = x.dims();
        let [input, output] = shape(weight)[..] else { unreachable!("a matrix") };
        let rows = dims.iter().product::<usize>() / input;
        dims[D - 1] = output;
        let base = |x: Tensor<2>, bias: Option<Tensor<1>>| match &self.packed {
            Some(packed) => packed.forward(x, bias),
            None => ops::linear(x, weight.base(), bias),
        };
        let plain = || plain(weight);
        adapted(&self.active(), x.reshape([rows, input]), bias, &base, &plain).reshape(dims)
    }

    fn active(&self) -> Vec<&Part> {
        self.parts.iter().filter(|named| named.active).map(|named| &named.part).collect()
    }
}

/// What a map with these parts makes of `x: [rows, in]`: the last part acts on what those before it
/// make. `base` is the map without any, `plain` its weight.
fn adapted(
    parts: &[&Part],
    x: Tensor<2>,
    bias: Option<Tensor<1>>,
    base: &dyn Fn(Tensor<2>, Option<Tensor<1>>) -> Tensor<2>,
    plain: &dyn Fn() -> Tensor<2>,
) -> Tensor<2> {
    let Some((last, rest)) = parts.split_last() else { return base(x, bias) };
    match last {
        Part::LowRank(part) => {
            let plain_here = || rest.iter().fold(plain(), |weight, part| part.merged(weight));
            part.forward(x, bias, |x, bias| adapted(rest, x, bias, base, plain), plain_here)
        }
        Part::Scale(part) => part.forward(x, |x| adapted(rest, x, bias, base, plain)),
        Part::Bottleneck(part) => part.forward(x, |x| adapted(rest, x, bias, base, plain)),
        // Whoever has a place for them asks for them.
        Part::Rows(_) | Part::Bypass(_) | Part::Memory(_) => adapted(rest, x, bias, base, plain),
    }
}

impl Part {
    /// The weight `[in, out]` with this part, of the weight without it.
    ///
    /// # Panics
    /// If it is no change of a weight.
    pub fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        match self {
            Part::LowRank(part) => part.merged(weight),
            Part::Scale(part) => part.merged(weight),
            Part::Rows(_) | Part::Bypass(_) | Part::Memory(_) => weight,
            Part::Bottleneck(_) => panic!(
                "a bottleneck is no change of a weight: only layers that ask for it can have one"
            ),
        }
    }

    /// What it multiplies outputs by, the bias among them.
    pub fn output_factors(&self) -> Option<Tensor<1>> {
        match self {
            Part::Scale(Scale { factors, side: Side::Output }) => Some(factors.val()),
            _ => None,
        }
    }

    /// Whether the weight can take it up for good.
    pub fn can_merge(&self) -> bool {
        matches!(self, Part::LowRank(_) | Part::Scale(_))
    }
}

/// The parts that count on a weight, in the order in which they were hung on it.
fn active(weight: &Param<Tensor<2>>) -> impl Iterator<Item = &Part> {
    weight.reparameterization::<Adapters>().into_iter().flat_map(Adapters::active)
}

/// `x` with a share of its values set to 0 and the others raised to make up for it, where gradients are taken;
/// as it is anywhere else.
fn dropped<const D: usize>(x: Tensor<D>, share: f64) -> Tensor<D> {
    if share <= 0.0 || !x.is_autodiff() {
        return x;
    }
    let keep = 1.0 - share;
    let mask = Tensor::random(x.dims(), Distribution::Bernoulli(keep), &x.device());
    x * (mask / keep)
}

/// Adapters by the path of the weight that they hang on.
pub type ByPath = BTreeMap<String, Adapters>;

/// Takes all adapters off a model, whose weights are as if there had been none; those that are packed
/// are places only.
pub fn take<M: Module>(model: M) -> (M, ByPath) {
    let paths = paths(&model);
    TAKEN.set(Some(Vec::new()));
    let model = model.materialize();
    let taken = TAKEN.take().unwrap_or_default();
    assert_eq!(paths.len(), taken.len(), "a weight was passed over");
    (model, paths.into_iter().zip(taken).collect())
}

/// Whether the parameter at a path is part of an adapter.
pub fn is_inside(path: &str) -> bool {
    path.contains(".adapters.parts.")
}

/// What hangs on a model's weights.
pub fn all<M: Module>(model: &M) -> ByPath {
    take(model.clone()).1
}

/// The paths of the weights that adapters hang on, in order.
fn paths<M: Module>(model: &M) -> Vec<String> {
    #[derive(Default)]
    struct Finder {
        stack: params::PathStack,
        found: Vec<String>,
    }
    impl ModuleVisitor for Finder {
        fn enter_module(&mut self, name: &str, kind: &str) {
            if (name, kind) == (Adapters::NAME, "Reparameterization") {
                self.found.push(self.stack.path());
            }
            self.stack.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.pop();
        }
        fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {}
    }
    let mut finder = Finder::default();
    model.visit(&mut finder);
    finder.found
}

/// The four bits of the weight at a path, of a shape `[in, out]`, if it is to have no more.
pub type Choice<'a, E> = dyn FnMut(&str, [usize; 2]) -> Result<Option<FourBit>, E> + 'a;

/// Keeps weights in four bits from now on: those that `choose` gives values for, by their paths and
/// shapes `[in, out]`. Their old values are let go one by one.
///
/// # Errors
/// The first that `choose` returns.
pub fn pack<M: Module, E>(model: M, choose: &mut Choice<'_, E>) -> Result<M, E> {
    struct Packer<'a, 'b, E> {
        choose: &'a mut Choice<'b, E>,
        failed: &'a mut Option<E>,
        rest: ByPath,
    }
    impl<E> Reparameterizer for Packer<'_, '_, E> {
        type Reparam = Adapters;
        fn reparameterize<const D: usize>(
            &mut self,
            path: &str,
            param: Param<Tensor<D>>,
        ) -> (Param<Tensor<D>>, Option<Adapters>) {
            let there = self.rest.remove(path);
            let is_packed = there.as_ref().is_some_and(|adapters| adapters.packed.is_some());
            let dims = param.lazy_shape();
            let ([input, output], false, None) = (&dims[..], is_packed, &self.failed) else {
                return (param, there);
            };
            match (self.choose)(path, [*input, *output]) {
                Ok(None) => (param, there),
                Ok(Some(weight)) => {
                    let device = param.lazy_device();
                    let packed = Packed::new(&weight, [*input, *output], &device.clone().inner());
                    let parts = there.map(|adapters| adapters.parts).unwrap_or_default();
                    let place = Tensor::<D>::zeros([1; D], &device);
                    let place = Param::initialized(param.id, place.set_require_grad(false));
                    (place, Some(Adapters { parts, packed: Some(packed) }))
                }
                Err(error) => {
                    *self.failed = Some(error);
                    (param, there)
                }
            }
        }
    }
    let (model, rest) = take(model);
    let mut failed = None;
    let model = model.apply_reparameterization(Packer { choose, failed: &mut failed, rest });
    failed.map_or(Ok(model), Err)
}

/// Hangs adapters on the weights of a model that has none.
///
/// # Panics
/// If there is no weight at one of the paths.
pub fn put<M: Module>(model: M, adapters: ByPath) -> M {
    struct Giver<'a>(&'a RefCell<ByPath>);
    impl Reparameterizer for Giver<'_> {
        type Reparam = Adapters;
        fn reparameterize<const D: usize>(
            &mut self,
            path: &str,
            param: Param<Tensor<D>>,
        ) -> (Param<Tensor<D>>, Option<Adapters>) {
            (param, self.0.borrow_mut().remove(path))
        }
    }
    let left = RefCell::new(adapters);
    let model = model.apply_reparameterization(Giver(&left));
    let left: Vec<String> = left.into_inner().into_keys().collect();
    assert!(left.is_empty(), "there is no weight {}", left.join(", "));
    model
}
