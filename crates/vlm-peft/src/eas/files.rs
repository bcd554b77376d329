//! The tensors of attention skipping in a file, as PyTorch lays such maps out.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use vlm_nn::adapter::{Bypass, Grouped, Map, Past, Propagation};

use super::{Eas, GROUPS};

/// How tensors begin that stand in place of an attention, and in front of one.
pub const KINDS: [&str; 2] = ["bypass", "front"];

/// What counts at the time, by the ends of the names.
pub fn stored(part: &Bypass) -> Vec<(String, TensorData)> {
    let (kind, said) = match part.now() {
        Some(Past::Instead(said)) => (KINDS[0], said),
        Some(Past::Front(said)) => (KINDS[1], said),
        // What was folded is in other weights.
        Some(Past::Folded(_)) | None => return Vec::new(),
    };
    let mut all = Vec::new();
    let mut add = |name: &str, weight: TensorData, bias: &Param<Tensor<1>>| {
        all.push((format!("{kind}.{name}.weight"), weight));
        all.push((format!("{kind}.{name}.bias"), bias.val().into_data()));
    };
    let Propagation { global, local, up, other, router, .. } = said;
    for (name, map) in
        [("global", global.as_ref()), ("local", Some(local)), ("router", router.as_ref())]
    {
        if let Some(Map { weight, bias }) = map {
            add(name, weight.val().transpose().into_data(), bias);
        }
    }
    for (name, map) in [("up", Some(up)), ("other", other.as_ref())] {
        if let Some(Grouped { weight, bias }) = map {
            let [groups, input, output] = weight.val().dims();
            let weight = weight.val().swap_dims(1, 2).reshape([groups * output, input]);
            add(name, weight.into_data(), bias);
        }
    }
    all
}

/// The tensors that a part has, with their shapes: `kind` is its place, `width` that of the rows that ask, and
/// `context` that of those that are looked at.
pub fn shapes(eas: &Eas, kind: &str, [width, context]: [usize; 2]) -> Vec<(String, Vec<usize>)> {
    let [wide, narrow] = eas.inner();
    let inner = if kind == KINDS[0] { wide } else { narrow };
    let mut all = Vec::new();
    let mut add = |name: &str, out: usize, into: usize| {
        all.push((format!("{kind}.{name}.weight"), vec![out, into]));
        all.push((format!("{kind}.{name}.bias"), vec![out]));
    };
    if kind == KINDS[0] {
        add("global", inner, context);
    }
    add("local", inner, width);
    add("up", width, inner / GROUPS);
    if eas.router {
        add("other", width, inner / GROUPS);
        add("router", 2, width);
    }
    all
}

/// A part of tensors that have these shapes; `read` gives them by the ends of their names.
///
/// # Errors
/// As `read`.
pub fn made<E>(
    eas: &Eas,
    kind: &str,
    layer: usize,
    device: &Device,
    read: &dyn Fn(&str) -> Result<TensorData, E>,
) -> Result<Bypass, E> {
    let vector = |name: &str| -> Result<Param<Tensor<1>>, E> {
        let data = read(&format!("{kind}.{name}.bias"))?;
        Ok(Param::from_tensor(Tensor::from_data(data, device)))
    };
    let matrix = |name: &str| -> Result<Tensor<2>, E> {
        Ok(Tensor::from_data(read(&format!("{kind}.{name}.weight"))?, device))
    };
    // Lying as they did when they were written: sums of floats depend on it.
    let map = |name: &str| -> Result<Map, E> {
        let turned = matrix(name)?.transpose().into_data();
        let weight = Param::from_tensor(Tensor::from_data(turned, device));
        Ok(Map { weight, bias: vector(name)? })
    };
    let grouped = |name: &str| -> Result<Grouped, E> {
        let weight = matrix(name)?;
        let [out, input] = weight.dims();
        let turned = weight.reshape([GROUPS, out / GROUPS, input]).swap_dims(1, 2).into_data();
        let weight = Param::from_tensor(Tensor::from_data(turned, device));
        Ok(Grouped { weight, bias: vector(name)? })
    };
    let skipped = kind == KINDS[0];
    let said = Propagation {
        global: skipped.then(|| map("global")).transpose()?,
        local: map("local")?,
        up: grouped("up")?,
        other: eas.router.then(|| grouped("other")).transpose()?,
        router: eas.router.then(|| map("router")).transpose()?,
        scale: eas.scale,
        temperature: eas.temperature,
        dropout: eas.dropout,
        norm: eas.norm,
    };
    let (instead, front) = if skipped { (Some(said), None) } else { (None, Some(said)) };
    Ok(Bypass { instead, front, folded: None, layer, skips: None })
}
