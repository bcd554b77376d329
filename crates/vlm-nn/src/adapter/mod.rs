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
mod low_rank;
mod rows;
mod scale;

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::module::{Module, Param, Reparameterization, Reparameterizer};
use burn::tensor::{Distribution, Tensor};

pub use bottleneck::{Bottleneck, Place};
pub use low_rank::{LowRank, Ranks, Scaling};
pub use rows::{Rows, front, lead, put_in_front, seen_in_front};
pub use scale::{Scale, Side};

use crate::{ops, params};

/// One thing that is learned beside a weight `[in, out]`.
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
        let dims = base.dims();
        let [input, output] = dims[..] else {
            panic!("adapters hang on matrices, not on tensors of {D} dimensions")
        };
        self.merged(base.reshape([input, output])).reshape(dims)
    }
}

impl Adapters {
    /// The adapted weight, of the plain weight `[in, out]`.
    ///
    /// # Panics
    /// If a part that counts is no change of a weight, as a bottleneck is not.
    pub fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        self.active().into_iter().fold(weight, |weight, part| part.merged(weight))
    }

    /// `[..., in]` to `[..., out]`: what the adapted map makes of `x`, without building its weight.
    pub fn forward<const D: usize>(
        &self,
        x: Tensor<D>,
        weight: &Param<Tensor<2>>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<D> {
        let mut dims = x.dims();
        let [input, output] = weight.lazy_shape()[..] else { unreachable!("a matrix") };
        let rows = dims.iter().product::<usize>() / input;
        dims[D - 1] = output;
        adapted(&self.active(), x.reshape([rows, input]), weight, bias).reshape(dims)
    }

    fn active(&self) -> Vec<&Part> {
        self.parts.iter().filter(|named| named.active).map(|named| &named.part).collect()
    }
}

/// What a map with these parts makes of `x: [rows, in]`: the last part acts on what those before it
/// make.
fn adapted(
    parts: &[&Part],
    x: Tensor<2>,
    weight: &Param<Tensor<2>>,
    bias: Option<Tensor<1>>,
) -> Tensor<2> {
    let Some((last, rest)) = parts.split_last() else {
        return ops::linear(x, weight.base(), bias);
    };
    match last {
        Part::LowRank(part) => {
            let plain = || rest.iter().fold(weight.base(), |weight, part| part.merged(weight));
            part.forward(x, bias, |x, bias| adapted(rest, x, weight, bias), plain)
        }
        Part::Scale(part) => part.forward(x, |x| adapted(rest, x, weight, bias)),
        Part::Bottleneck(part) => part.forward(x, |x| adapted(rest, x, weight, bias)),
        // Whoever has a place for them asks for them.
        Part::Rows(_) => adapted(rest, x, weight, bias),
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
            Part::Rows(_) => weight,
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
        !matches!(self, Part::Bottleneck(_) | Part::Rows(_))
    }
}

/// `x` with a share of its values set to 0 and the others raised to make up for it.
fn dropped(x: Tensor<2>, share: f64) -> Tensor<2> {
    let keep = 1.0 - share;
    let mask = Tensor::random(x.dims(), Distribution::Bernoulli(keep), &x.device());
    x * (mask / keep)
}

/// Adapters by the path of the weight that they hang on.
pub type ByPath = BTreeMap<String, Adapters>;

/// Takes all adapters off a model, whose weights are as if there had been none.
pub fn take<M: Module>(model: M) -> (M, ByPath) {
    let inside = format!(".{}.", Adapters::NAME);
    let mut paths: Vec<String> = Vec::new();
    for info in params::list(&model) {
        let Some((weight, _)) = info.path.split_once(&inside) else { continue };
        if paths.last().is_none_or(|last| last != weight) {
            paths.push(weight.to_owned());
        }
    }
    TAKEN.set(Some(Vec::new()));
    let model = model.materialize();
    let taken = TAKEN.take().unwrap_or_default();
    assert_eq!(paths.len(), taken.len(), "adapters without any parameter");
    (model, paths.into_iter().zip(taken).collect())
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
