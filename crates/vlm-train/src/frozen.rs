//! What a run leaves as it is.

use std::collections::BTreeSet;

use burn::module::Module;
use vlm_nn::{adapter, params};

/// The paths of the parameters that training changes.
pub fn trained<M: Module>(model: &M) -> BTreeSet<String> {
    let trained = params::list(model).into_iter().filter(|param| param.trainable);
    trained.map(|param| param.path).collect()
}

/// A number that stands for all values that training leaves as they are. They are not part of a
/// checkpoint: the number tells whether a run goes on with what it began with.
pub(crate) fn fingerprint_of_frozen<M: Module>(model: &M) -> u64 {
    let trained = trained(model);
    fingerprint(model, &|path| (!trained.contains(path)).then_some(path))
}

/// A number that stands for the values of a model. `name` is what a parameter counts as; those without a
/// name do not count.
pub fn fingerprint<M: Module>(model: &M, name: &dyn Fn(&str) -> Option<&str>) -> u64 {
    let mut print = Print(0x9E37_79B9_7F4A_7C15);
    params::read_chosen(model, &|path| name(path).is_some(), &mut |path, data| {
        print.add(name(path).unwrap_or(path).bytes().map(u64::from));
        match data.as_slice::<f32>() {
            Ok(values) => print.add(values.iter().map(|x| u64::from(x.to_bits()))),
            Err(_) => print.add(data.iter::<f32>().map(|x| u64::from(x.to_bits()))),
        }
    });
    for (path, adapters) in adapter::all(model) {
        let Some(packed) = adapters.packed else { continue };
        print.add(name(&path).unwrap_or(&path).bytes().map(u64::from));
        print.add(packed.to_host().packed.into_iter().map(u64::from));
    }
    print.0
}

struct Print(u64);

impl Print {
    fn add(&mut self, values: impl Iterator<Item = u64>) {
        for value in values {
            self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517C_C1B7_2722_0A95);
        }
    }
}
