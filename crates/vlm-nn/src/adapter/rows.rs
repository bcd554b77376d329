//! Rows that no token has.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::Part;

/// Learned rows in front of those that a matrix makes: keys and values beside the maps that make them
/// (prefix tuning, Li and Liang 2021, arXiv 2101.00190), tokens beside the table of tokens (prompt
/// tuning, Lester et al. 2021, arXiv 2104.08691).
///
/// Rows in front are seen by all that follows and count as places: what follows stands so many places
/// later.
#[derive(Module, Debug)]
pub struct Rows {
    /// `[rows, out]`.
    pub rows: Param<Tensor<2>>,
}

/// The rows that count beside a matrix, `[rows, out]`; those that were hung on it first come first.
pub fn front(weight: &Param<Tensor<2>>) -> Option<Tensor<2>> {
    let rows: Vec<Tensor<2>> = of(weight).map(|part| part.rows.val()).collect();
    (!rows.is_empty()).then(|| Tensor::cat(rows, 0))
}

/// How many they are.
pub fn lead(weight: &Param<Tensor<2>>) -> usize {
    of(weight).map(|part| part.rows.lazy_shape()[0]).sum()
}

fn of(weight: &Param<Tensor<2>>) -> impl Iterator<Item = &Rows> {
    super::active(weight).filter_map(|part| match part {
        Part::Rows(rows) => Some(rows),
        _ => None,
    })
}

/// Rows `[batch, tokens, width]` with others `[n, width]` in front of each text.
pub fn put_in_front(front: Tensor<2>, rows: Tensor<3>) -> Tensor<3> {
    let [batch, _, _] = rows.dims();
    let [n, width] = front.dims();
    Tensor::cat(vec![front.unsqueeze::<3>().expand([batch, n, width]), rows], 1)
}

/// A mask `[batch, queries, keys]` with so many keys in front that every query sees.
pub fn seen_in_front(mask: Tensor<3>, n: usize) -> Tensor<3> {
    if n == 0 {
        return mask;
    }
    let [batch, queries, _] = mask.dims();
    let seen = Tensor::zeros([batch, queries, n], (&mask.device(), mask.dtype()));
    Tensor::cat(vec![seen, mask], 2)
}
