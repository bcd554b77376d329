//! Fewer rows for a picture: means over squares of its patch grid.

use burn::tensor::{Tensor, TensorData};

/// The grid that is left of one when each square of `side` by `side` patches becomes one; what
/// the last row and column of squares cover may be less than a square.
pub fn pooled(grid: (usize, usize), side: usize) -> (usize, usize) {
    (grid.0.div_ceil(side), grid.1.div_ceil(side))
}

/// Means over squares: `[pictures, patches, width]`, the patches row after row as `grid` (rows,
/// columns) says, to `[pictures, squares, width]`.
///
/// A side of 1 changes nothing, whatever else stands among the patches.
///
/// # Panics
/// If the grid does not have as many patches.
pub fn average(picture: Tensor<3>, grid: (usize, usize), side: usize) -> Tensor<3> {
    if side <= 1 {
        return picture;
    }
    let patches = picture.dims()[1];
    assert_eq!(grid.0 * grid.1, patches, "a grid of {grid:?} has not {patches} patches");
    let (rows, cols) = pooled(grid, side);
    let mut shares = vec![0f32; rows * cols * patches];
    for (square, shares) in shares.chunks_exact_mut(patches).enumerate() {
        let (top, left) = (square / cols * side, square % cols * side);
        let (bottom, right) = ((top + side).min(grid.0), (left + side).min(grid.1));
        let share = 1.0 / ((bottom - top) * (right - left)) as f32;
        for row in top..bottom {
            shares[row * grid.1 + left..row * grid.1 + right].fill(share);
        }
    }
    let shape = [1, rows * cols, patches];
    Tensor::<3>::from_data(TensorData::new(shares, shape), &picture.device()).matmul(picture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn means(grid: (usize, usize), side: usize) -> Vec<f32> {
        let len = (grid.0 * grid.1) as i64;
        let picture = Tensor::<1, burn::tensor::Int>::arange(0..2 * len, &Device::flex());
        let picture = picture.float().reshape([2, len as usize, 1]);
        average(picture, grid, side).into_data().iter::<f32>().collect()
    }

    #[test]
    fn a_square_becomes_its_mean() {
        // 0 1 2 3 / 4 5 6 7, and the same 8 higher.
        assert_eq!(means((2, 4), 2), [2.5, 4.5, 10.5, 12.5]);
        assert_eq!(means((2, 4), 1).len(), 16);
    }

    #[test]
    fn the_rest_of_a_grid_has_smaller_squares() {
        // 0 1 2 / 3 4 5 / 6 7 8
        assert_eq!(means((3, 3), 2)[..4], [2.0, 3.5, 6.5, 8.0]);
        assert_eq!(pooled((3, 5), 2), (2, 3));
    }
}
