//! What is looked at before a run starts: nothing trains with a severed gradient.

use std::collections::HashSet;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use vlm_nn::params::{self, Init, PathStack};

use crate::{Error, Grads};

/// How much of a part of the model trains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freedom {
    /// The start that its paths have in common.
    pub part: String,
    /// Values that train.
    pub trainable: usize,
    /// Values in all.
    pub total: usize,
}

impl Freedom {
    /// `frozen`, `full`, or something between.
    pub fn word(&self) -> &'static str {
        match self.trainable {
            0 => "frozen",
            n if n == self.total => "full",
            _ => "adapted",
        }
    }
}

/// Counts values by the parts of a model, in field order: by its fields, and where one field
/// holds nearly everything, by the fields of that one.
pub fn describe<M: Module>(model: &M) -> Vec<Freedom> {
    let list = params::list(model);
    let whole: usize = list.iter().map(params::ParamInfo::len).sum();
    let mut opened: Vec<String> = Vec::new();
    loop {
        let mut parts: Vec<Freedom> = Vec::new();
        for param in &list {
            let part = part_of(&param.path, &opened);
            if parts.last().is_none_or(|last| last.part != part) {
                parts.push(Freedom { part: part.to_owned(), trainable: 0, total: 0 });
            }
            if let Some(last) = parts.last_mut() {
                last.total += param.len();
                last.trainable += if param.trainable { param.len() } else { 0 };
            }
        }
        match parts.iter().find(|part| part.total * 20 > whole * 19) {
            // A single parameter cannot be opened.
            Some(most) if list.iter().all(|param| param.path != most.part) => {
                opened.push(most.part.clone());
            }
            _ => return parts,
        }
    }
}

/// The first field of a path, or further ones below those in `opened`.
fn part_of<'a>(path: &'a str, opened: &[String]) -> &'a str {
    let mut end = path.find('.').unwrap_or(path.len());
    while opened.iter().any(|part| part == &path[..end]) && end < path.len() {
        end = path[end + 1..].find('.').map_or(path.len(), |dot| end + 1 + dot);
    }
    &path[..end]
}

/// The model with every trainable tensor that stands at 0 moved a little; `None` if there is none.
///
/// Methods that change nothing at the start stand at a saddle: behind a gate that is 0 no gradient
/// arrives, though nothing is severed. Moved off it, it has to.
pub fn moved_from_zero<M: Module>(model: &M) -> Option<M> {
    let trainable: HashSet<String> =
        params::list(model).into_iter().filter(|p| p.trainable).map(|p| p.path).collect();
    let mut zero = HashSet::new();
    params::read(model, &mut |path, values| {
        if trainable.contains(path) && values.iter::<f32>().all(|value| value == 0.0) {
            zero.insert(path.to_owned());
        }
    });
    if zero.is_empty() {
        return None;
    }
    // Not all alike: what compares two of them would still see no difference.
    let moved = params::replace(model.clone(), &mut |path, shape| {
        let values = || params::drawn(Init::Normal(0.01), shape, 0, path);
        Ok::<_, std::convert::Infallible>(zero.contains(path).then(values))
    });
    let Ok(moved) = moved;
    Some(moved)
}

/// Refuses gradients that are missing, zero or where none should be. Parameters at paths that are `idle` may
/// be without.
///
/// # Errors
/// [`Error::Gradients`] with the paths.
pub fn check_gradients<M: Module>(
    model: &M,
    grads: &Grads,
    idle: &dyn Fn(&str) -> bool,
) -> Result<(), Error> {
    struct Checker<'a> {
        stack: PathStack,
        grads: &'a Grads,
        idle: &'a dyn Fn(&str) -> bool,
        missing: Vec<String>,
        extra: Vec<String>,
    }
    impl ModuleVisitor for Checker<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.stack.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.stack.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = self.grads.get::<D>(param.id);
            match (param.is_require_grad(), grad) {
                (true, _) if (self.idle)(&self.stack.path()) => {}
                (true, None) => self.missing.push(self.stack.path()),
                (true, Some(grad)) => {
                    let largest: f32 = grad.abs().max().into_scalar();
                    // A key bias shifts all scores of a row alike, which softmax undoes.
                    if largest == 0.0 && !self.stack.path().ends_with(".k.bias") {
                        self.missing.push(self.stack.path());
                    }
                }
                (false, Some(_)) => self.extra.push(self.stack.path()),
                (false, None) => {}
            }
        }
    }
    let mut checker =
        Checker { stack: PathStack::default(), grads, idle, missing: vec![], extra: vec![] };
    model.visit(&mut checker);
    let mut complaints = Vec::new();
    for (what, paths) in [
        ("no gradient reaches the trainable", checker.missing),
        ("a gradient reaches the frozen", checker.extra),
    ] {
        if !paths.is_empty() {
            complaints.push(format!("{what} {}", paths.join(", ")));
        }
    }
    if complaints.is_empty() { Ok(()) } else { Err(Error::Gradients(complaints.join("; "))) }
}

/// The path of the first parameter with a value that is no finite number.
pub(crate) fn not_finite<M: Module>(model: &M) -> Option<String> {
    let mut found = None;
    params::read(model, &mut |path, data: TensorData| {
        if found.is_none() && !data.iter::<f32>().all(f32::is_finite) {
            found = Some(path.to_owned());
        }
    });
    found
}
